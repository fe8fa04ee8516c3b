// Every command that a tenant may send, by what its arguments mean. What is not in here is refused. Checked against the server's own
// COMMAND table in command-policy.test.ts.

/** The first argument, and no other, is a key. */
export const FIRST_KEY = `
  append bitcount bitfield bitfield_ro bitpos decr decrby delex digest dump expire expireat expiretime
  geoadd geodist geohash geopos georadius_ro georadiusbymember_ro geosearch get getbit getdel getex getrange getset
  hdel hexists hexpire hexpireat hexpiretime hget hgetall hgetdel hgetex hincrby hincrbyfloat hkeys hlen hmget hmset hpersist hpexpire
  hpexpireat hpexpiretime hpttl hrandfield hscan hset hsetex hsetnx hstrlen httl hvals
  incr incrby incrbyfloat lindex linsert llen lpop lpos lpush lpushx lrange lrem lset ltrim
  persist pexpire pexpireat pexpiretime pfadd psetex pttl restore rpop rpush rpushx
  sadd scard set setbit setex setnx setrange sismember smembers smismember spop srandmember srem sscan strlen substr
  ttl type vadd vcard vdim vemb vgetattr vinfo vismember vlinks vrandmember vrange vrem vsetattr vsim
  xack xackdel xadd xautoclaim xclaim xdel xdelex xlen xpending xrange xrevrange xsetid xtrim
  zadd zcard zcount zincrby zlexcount zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrank zrem zremrangebylex
  zremrangebyrank zremrangebyscore zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore
`

/** Keys at positions that depend on the number of arguments only; `@ioredis/commands` knows them. */
export const FIXED_RANGE = `
  bitop blmove brpoplpush del exists geosearchstore lcs lmove mget mset msetnx pfcount pfmerge rename renamenx rpoplpush
  sdiff sdiffstore sinter sinterstore smove sunion sunionstore touch unlink zrangestore
`

/** As above, and the reply begins with the key that answered. */
export const FIXED_RANGE_KEY_IN_REPLY = 'blpop brpop bzpopmax bzpopmin'

/** Subcommands whose second argument is a key. */
export const SECOND_KEY: Readonly<Record<string, string>> = {
  memory: 'usage',
  object: 'encoding freq idletime refcount',
  xgroup: 'create createconsumer delconsumer destroy setid',
  xinfo: 'consumers groups stream',
}

/** No keys, nothing of other tenants, and no effect on a connection that tenants share. */
export const HARMLESS = 'echo lolwut ping time unwatch wait waitaof'

/** As above, subcommands. */
export const HARMLESS_SUBCOMMANDS: Readonly<Record<string, string>> = {
  client: 'getname help id info',
  command: 'count docs getkeys getkeysandflags help info list',
  memory: 'help',
  object: 'help',
  script: 'exists help load',
  xgroup: 'help',
  xinfo: 'help',
}

/** Why well-known commands are refused, for the message. All others are refused without a reason of their own. */
export const REFUSALS: readonly (readonly [names: string, reason: string])[] = [
  [
    'publish subscribe psubscribe unsubscribe punsubscribe spublish ssubscribe sunsubscribe pubsub',
    'Channels are not isolated yet. Use redis.central, and put the tenant into the channel name.',
  ],
  [
    'watch',
    'WATCH belongs to a connection, and this one is shared by all tenants. Use a Lua script with declared keys.',
  ],
  [
    'select move swapdb reset auth hello readonly readwrite asking',
    'It changes the state of a connection that all tenants share.',
  ],
  ['flushall', 'It empties every tenant. FLUSHDB removes the keys of the current one.'],
  ['info role slowlog latency', 'It tells about the server as a whole. Use redis.central.'],
  ['monitor', 'It shows the commands of every tenant. Use redis.central.'],
  ['migrate restore-asking', 'It moves keys past the isolation. Use redis.central.'],
]

/** MULTI, EXEC and DISCARD are right inside a pipeline, which is written in one piece. */
export const BARE_TRANSACTION_REASON =
  'A transaction on a connection that tenants share would mix their commands. Use redis.multi(), without { pipeline: false }.'
