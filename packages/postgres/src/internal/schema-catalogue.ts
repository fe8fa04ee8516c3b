import { physicalName, TenancyError } from '@partywall/core'
import type { QueryResult } from 'pg'
import { assertSchemaName, namesInPath, quoteIdentifier } from '../search-path.ts'
import type { Queryable } from '../shadowed-tables.ts'
import { MARK_PREFIX } from './schema-mark.ts'

/** One fact about a schema: what, whose, and how. */
interface CatalogueFact {
  readonly kind: string
  readonly name: string
  readonly facts: unknown
}

/** The same facts as lines of text, in one order whatever the collation of the database: two schemas of the same structure have the same lines. */
export async function readCatalogueLines(
  database: Queryable,
  schema: string,
): Promise<readonly string[]> {
  const lines = (await readCatalogue(database, schema)).map((fact) =>
    JSON.stringify([fact.kind, fact.name, sorted(fact.facts)]),
  )
  return lines.sort()
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .map(([key, entry]) => [key, sorted(entry)] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  )
}

/**
 * Reads what a schema is made of, with its own name left out.
 *
 * Postgres prints the names of a schema without that schema's name while the schema is in the search_path, so the path is set to it for this one question. It is one text, so that a
 * plain pool can be asked: the path ends with its implicit transaction, and inside of a transaction it is put back, as is JIT, which takes longer to compile such a query than the query takes. `pg_catalog` stays in front of it: operators that a tenant made
 * must not take the place of the server's own while somebody with more rights reads.
 */
async function readCatalogue(
  database: Queryable,
  schema: string,
): Promise<readonly CatalogueFact[]> {
  // The name can hold neither a quote nor a backslash, so it is a literal as it is.
  const name = assertSchemaName(schema)
  const path = `${quoteIdentifier(name)}, pg_temp`
  const results = (await database.query(`
    select pg_catalog.set_config('partywall.path', pg_catalog.current_setting('search_path'), true), pg_catalog.set_config('search_path', '${path}', true),
      pg_catalog.set_config('partywall.jit', pg_catalog.current_setting('jit'), true), pg_catalog.set_config('jit', 'off', true);
    ${FACTS.replaceAll('$schema', () => `'${name}'`)};
    select pg_catalog.set_config('search_path', pg_catalog.current_setting('partywall.path'), true), pg_catalog.set_config('jit', pg_catalog.current_setting('partywall.jit'), true)`)) as unknown as QueryResult[]
  const facts = (results[1]?.rows ?? []) as CatalogueFact[]
  const own = facts.find(({ kind }) => kind === 'schema')
  if (own === undefined)
    throw new TenancyError('ERR_TENANCY_SCHEMA_MISSING', `There is no schema "${name}".`)
  const { mark, shadowed } = own.facts as { mark: string | null; shadowed: string[] | null }
  const normal = normaliser(name, tenantRole(mark), shadowed ?? [])
  return facts.map((fact) =>
    fact === own
      ? { ...own, facts: null }
      : {
          ...fact,
          // Types of arguments are part of these names.
          name: SIGNED.has(fact.kind) ? String(normal(fact.name, 'sql')) : fact.name,
          facts: normal(fact.facts, ''),
        },
  )
}

const SIGNED: ReadonlySet<string> = new Set(['function', 'operator', 'cast'])

function tenantRole(mark: string | null): string | undefined {
  return mark?.startsWith(MARK_PREFIX)
    ? physicalName('role', mark.slice(MARK_PREFIX.length))
    : undefined
}

/**
 * Takes out what differs from tenant to tenant by right: the tenant's own role, and the schema's name where Postgres prints it all the same: in the `search_path` of a function, and in
 * front of a name that also stands in `pg_catalog`. Not by searching for the name, which may well be that of a table or an alias too.
 */
function normaliser(
  schema: string,
  role: string | undefined,
  shadowed: readonly string[],
): (value: unknown, key: string) => unknown {
  const escaped = (text: string): string => text.replaceAll(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')
  const spellings = (text: string): string => `(?:"${escaped(text)}"|${escaped(text)})`
  const qualified =
    shadowed.length === 0
      ? undefined
      : new RegExp(
          String.raw`(?<![\w".])${spellings(schema)}\.(?=(?:${shadowed.map(spellings).join('|')})(?![\w"]))`,
          'g',
        )
  const visit = (value: unknown, key: string): unknown => {
    if (Array.isArray(value)) {
      const entries: unknown[] = value.map((entry) => visit(entry, key))
      // Lists of roles, which are sorted by what they are called here.
      return entries.every(ofRole) ? entries.sort(byText) : entries
    }
    if (typeof value === 'object' && value !== null)
      return Object.fromEntries(
        Object.entries(value).map(([member, entry]) => [member, visit(entry, member)]),
      )
    if (typeof value !== 'string') return value
    if (key === 'role') return value === `=${role}` ? 'tenant' : value
    if (key === 'config') return configOf(value, schema)
    return key === 'sql' && qualified !== undefined ? value.replaceAll(qualified, '') : value
  }
  return visit
}

const ofRole = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && 'role' in value

const byText = (a: unknown, b: unknown): number => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)

/** A setting of a function; a search_path by its names, however they are quoted. */
function configOf(setting: string, schema: string): string {
  const head = 'search_path='
  if (!setting.startsWith(head)) return setting
  const names = namesInPath(setting.slice(head.length))
  return head + JSON.stringify(names.map((name) => (name === schema ? null : name)))
}

// A role by its kind: the owner, everybody, or `=` and a name, so that a role called "public" is no kind.
const grants = (acl: string, owner: string): string => `(
  select pg_catalog.jsonb_agg(g order by g::pg_catalog.text collate "C") from (
    select pg_catalog.jsonb_build_object('role', case x.grantee when 0 then 'public' when ${owner} then 'owner' else '=' || pg_catalog.pg_get_userbyid(x.grantee) end,
      'right', x.privilege_type, 'grantable', x.is_grantable) as g
    from pg_catalog.aclexplode(${acl}) x) as every_grant)`

// What the schema holds at first hand is looked up by pg_depend: of the catalogues, only that one has an index by schema, and they are large where tenants are many.
const members = (classname: string): string =>
  `(select m.objid from member m where m.classid = 'pg_catalog.${classname}'::pg_catalog.regclass)`

// Names that the schema shares with pg_catalog, which is searched first.
const shadowed = (classname: string, name: string, namespace: string): string =>
  `select o.${name} as name from pg_catalog.${classname} o where o.oid in ${members(classname)}
   and exists (select from pg_catalog.${classname} s where s.${name} = o.${name} and s.${namespace} = 'pg_catalog'::pg_catalog.regnamespace)`

const build = (members: Readonly<Record<string, string>>): string =>
  `pg_catalog.jsonb_build_object(${Object.entries(members)
    .map(([name, sql]) => `'${name}', ${sql}`)
    .join(', ')})`

// Members called `sql` are texts that Postgres generated; `source` is what people wrote and stays as it is.
const wrap = (sql: string): string => `pg_catalog.jsonb_build_object('sql', ${sql})`

const collation = (oid: string): string =>
  `(select ${wrap('pg_catalog.quote_ident(k.collname)')} from pg_catalog.pg_collation k where k.oid = ${oid})`

// By its kind and its name; one of the schema itself without the schema, which regproc prints where a name is overloaded.
const routine = (oid: string): string =>
  `(select case when p.pronamespace = (select o.oid from own o) then '' else p.pronamespace::pg_catalog.regnamespace::pg_catalog.text || '.' end || p.proname
    from pg_catalog.pg_proc p where p.oid = ${oid})`
const operator = (oid: string): string =>
  `(select case when p.oprnamespace = (select o.oid from own o) then '' else p.oprnamespace::pg_catalog.regnamespace::pg_catalog.text || '.' end || p.oprname
    from pg_catalog.pg_operator p where p.oid = ${oid})`

const FACTS = `
with own as materialized (select n.oid, n.nspowner, n.nspacl from pg_catalog.pg_namespace n where n.nspname = $schema),
member as materialized (
  select d.classid, d.objid from own join pg_catalog.pg_depend d on d.refobjid = own.oid
  where d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.deptype = 'n'
    and not exists (select from pg_catalog.pg_depend e where e.classid = d.classid and e.objid = d.objid and e.deptype = 'e')
), relation as materialized (
  select c.* from pg_catalog.pg_class c where c.oid in (
    select m.objid from member m where m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    union all select t.typrelid from pg_catalog.pg_type t where t.oid in ${members('pg_type')})
)
select 'schema' as kind, '' as name, ${build({
  mark: "pg_catalog.obj_description(own.oid, 'pg_namespace')",
  shadowed: `(select pg_catalog.jsonb_agg(distinct o.name) from (${[
    shadowed('pg_class', 'relname', 'relnamespace'),
    shadowed('pg_type', 'typname', 'typnamespace'),
    shadowed('pg_proc', 'proname', 'pronamespace'),
    shadowed('pg_operator', 'oprname', 'oprnamespace'),
    shadowed('pg_collation', 'collname', 'collnamespace'),
    shadowed('pg_opclass', 'opcname', 'opcnamespace'),
  ].join(' union ')}) o)`,
})} as facts from own
union all
select 'schema grants', '', ${grants("coalesce(own.nspacl, pg_catalog.acldefault('n', own.nspowner))", 'own.nspowner')} from own
union all
select 'default privileges', d.defaclobjtype::pg_catalog.text || ' of ' || case when d.defaclrole = own.nspowner then 'owner' else pg_catalog.pg_get_userbyid(d.defaclrole)::pg_catalog.text end,
  ${grants('d.defaclacl', 'd.defaclrole')}
from pg_catalog.pg_default_acl d join own on d.defaclnamespace = own.oid
union all
select 'relation', r.relname, ${build({
  relkind: 'r.relkind',
  persistence: 'r.relpersistence',
  options:
    'pg_catalog.to_jsonb((select pg_catalog.array_agg(o order by o collate "C") from pg_catalog.unnest(r.reloptions) o))',
  rowSecurity: 'r.relrowsecurity',
  forceRowSecurity: 'r.relforcerowsecurity',
  replicaIdentity: 'r.relreplident',
  accessMethod: '(select a.amname from pg_catalog.pg_am a where a.oid = r.relam)',
  toastOptions: `(select pg_catalog.jsonb_agg(o order by o collate "C") from pg_catalog.pg_class t cross join pg_catalog.unnest(t.reloptions) o where t.oid = r.reltoastrelid)`,
  partitionKey: wrap("case r.relkind when 'p' then pg_catalog.pg_get_partkeydef(r.oid) end"),
  partitionBound: wrap('pg_catalog.pg_get_expr(r.relpartbound, r.oid)'),
  parents: `(select pg_catalog.jsonb_agg(${wrap('h.inhparent::pg_catalog.regclass::pg_catalog.text')} order by h.inhseqno) from pg_catalog.pg_inherits h where h.inhrelid = r.oid)`,
  ofType: wrap('case when r.reloftype <> 0 then pg_catalog.format_type(r.reloftype, null) end'),
  view: wrap("case when r.relkind in ('v', 'm') then pg_catalog.pg_get_viewdef(r.oid) end"),
  server: `(select pg_catalog.jsonb_build_array(s.srvname, f.ftoptions) from pg_catalog.pg_foreign_table f join pg_catalog.pg_foreign_server s on s.oid = f.ftserver where f.ftrelid = r.oid)`,
  grants: grants("coalesce(r.relacl, pg_catalog.acldefault('r', r.relowner))", 'r.relowner'),
  columns: `(
    select pg_catalog.jsonb_agg(${build({
      name: 'a.attname',
      type: wrap('pg_catalog.format_type(a.atttypid, a.atttypmod)'),
      notNull: 'a.attnotnull',
      identity: 'a.attidentity',
      generated: 'a.attgenerated',
      default: wrap(
        '(select pg_catalog.pg_get_expr(d.adbin, d.adrelid) from pg_catalog.pg_attrdef d where d.adrelid = a.attrelid and d.adnum = a.attnum)',
      ),
      collation: `case when a.attcollation <> t.typcollation then ${collation('a.attcollation')} end`,
      storage: 'nullif(a.attstorage, t.typstorage)',
      compression: 'a.attcompression',
      statistics: 'nullif(a.attstattarget, -1)',
      local: 'a.attislocal',
      // By name: some builds keep a stamp of their own here (pg_attver in a 15.20), which no two tables share.
      options: `(select pg_catalog.array_agg(o order by o collate "C") from pg_catalog.unnest(a.attoptions) o where o like 'n_distinct%')`,
      foreignOptions: 'a.attfdwoptions',
      grants: grants('a.attacl', 'r.relowner'),
    })} order by a.attnum)
    from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
    where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped)`,
})}
from relation r where r.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
union all
select 'sequence', r.relname, ${build({
  type: wrap('pg_catalog.format_type(s.seqtypid, null)'),
  range:
    'pg_catalog.jsonb_build_array(s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)',
  persistence: 'r.relpersistence',
  ownedBy: `(
    select pg_catalog.jsonb_build_array(d.deptype, t.relname, a.attname) from pg_catalog.pg_depend d join pg_catalog.pg_class t on t.oid = d.refobjid
    join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = r.oid and d.refclassid = d.classid and d.deptype in ('a', 'i') limit 1)`,
  grants: grants("coalesce(r.relacl, pg_catalog.acldefault('s', r.relowner))", 'r.relowner'),
})}
from relation r join pg_catalog.pg_sequence s on s.seqrelid = r.oid
union all
select 'constraint', coalesce(r.relname, t.typname) || '.' || k.conname, ${build({
  contype: 'k.contype',
  definition: wrap('pg_catalog.pg_get_constraintdef(k.oid)'),
  validated: 'k.convalidated',
  local: 'k.conislocal',
  // Of an index it says how it was made, and means nothing.
  noInherit: "k.contype in ('c', 'n') and k.connoinherit",
})}
from (
  -- Each by its index; an OR of the two would read the constraints of all tenants.
  select c.* from relation o join pg_catalog.pg_constraint c on c.conrelid = o.oid
  union all
  select c.* from pg_catalog.pg_type o join pg_catalog.pg_constraint c on c.contypid = o.oid where o.typtype = 'd' and o.oid in ${members('pg_type')}
) k left join pg_catalog.pg_class r on r.oid = k.conrelid left join pg_catalog.pg_type t on t.oid = k.contypid
-- What a foreign key to a partitioned table keeps for each of its partitions: Postgres makes and names it.
where not exists (select from pg_catalog.pg_constraint p where p.oid = k.conparentid and p.conrelid = k.conrelid)
union all
select 'index', r.relname || '.' || x.relname, ${build({
  definition: wrap('pg_catalog.pg_get_indexdef(x.oid, 0, true)'),
  valid: 'i.indisvalid',
  clustered: 'i.indisclustered',
  replicaIdentity: 'i.indisreplident',
  statistics:
    '(select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(a.attnum, a.attstattarget) order by a.attnum) from pg_catalog.pg_attribute a where a.attrelid = x.oid and a.attstattarget >= 0)',
})}
from relation r join pg_catalog.pg_index i on i.indrelid = r.oid join pg_catalog.pg_class x on x.oid = i.indexrelid
union all
select 'statistics', s.stxname, ${build({
  of: wrap('s.stxrelid::pg_catalog.regclass::pg_catalog.text'),
  kinds: 's.stxkind',
  target: 'nullif(s.stxstattarget, -1)',
  columns: wrap('pg_catalog.pg_get_statisticsobjdef_columns(s.oid)'),
})}
from pg_catalog.pg_statistic_ext s where s.oid in ${members('pg_statistic_ext')}
union all
select 'trigger', r.relname || '.' || g.tgname, ${build({
  definition: wrap('pg_catalog.pg_get_triggerdef(g.oid, true)'),
  enabled: 'g.tgenabled',
})}
from relation r join pg_catalog.pg_trigger g on g.tgrelid = r.oid where not g.tgisinternal
union all
select 'rule', r.relname || '.' || w.rulename, ${build({
  definition: wrap('pg_catalog.pg_get_ruledef(w.oid, true)'),
  enabled: 'w.ev_enabled',
})}
from relation r join pg_catalog.pg_rewrite w on w.ev_class = r.oid where w.rulename <> '_RETURN'
union all
select 'policy', r.relname || '.' || p.polname, ${build({
  command: 'p.polcmd',
  permissive: 'p.polpermissive',
  roles: `(
    select pg_catalog.jsonb_agg(${build({ role: "case o when 0 then 'public' when r.relowner then 'owner' else '=' || pg_catalog.pg_get_userbyid(o) end" })} order by pg_catalog.pg_get_userbyid(o) collate "C")
    from pg_catalog.unnest(p.polroles) o)`,
  using: wrap('pg_catalog.pg_get_expr(p.polqual, p.polrelid)'),
  check: wrap('pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)'),
})}
from relation r join pg_catalog.pg_policy p on p.polrelid = r.oid
union all
select 'function', f.proname || '(' || pg_catalog.pg_get_function_identity_arguments(f.oid) || ')', ${build(
  {
    prokind: 'f.prokind',
    arguments: wrap('pg_catalog.pg_get_function_arguments(f.oid)'),
    result: wrap('pg_catalog.pg_get_function_result(f.oid)'),
    language: '(select l.lanname from pg_catalog.pg_language l where l.oid = f.prolang)',
    source: "case when f.prokind <> 'a' then pg_catalog.to_jsonb(f.prosrc) end",
    binary: 'f.probin::pg_catalog.text',
    body: wrap('pg_catalog.pg_get_function_sqlbody(f.oid)'),
    traits:
      'pg_catalog.jsonb_build_array(f.provolatile, f.proisstrict, f.prosecdef, f.proleakproof, f.proparallel, f.procost, f.prorows)',
    config: 'pg_catalog.to_jsonb(f.proconfig)',
    support: routine('f.prosupport'),
    aggregate: `(
    select ${build({
      parts:
        'pg_catalog.jsonb_build_array(a.aggkind, a.aggnumdirectargs, a.agginitval, a.aggminitval, a.aggfinalextra, a.aggfinalmodify, a.aggmfinalextra, a.aggmfinalmodify, a.aggtransspace, a.aggmtransspace)',
      functions: `pg_catalog.jsonb_build_array(${['aggtransfn', 'aggfinalfn', 'aggcombinefn', 'aggserialfn', 'aggdeserialfn', 'aggmtransfn', 'aggminvtransfn', 'aggmfinalfn'].map((name) => routine(`a.${name}`)).join(', ')}, ${operator('a.aggsortop')})`,
      types: `pg_catalog.jsonb_build_array(${wrap('pg_catalog.format_type(a.aggtranstype, null)')}, ${wrap('pg_catalog.format_type(nullif(a.aggmtranstype, 0), null)')})`,
    })}
    from pg_catalog.pg_aggregate a where a.aggfnoid = f.oid)`,
    grants: grants("coalesce(f.proacl, pg_catalog.acldefault('f', f.proowner))", 'f.proowner'),
  },
)}
from pg_catalog.pg_proc f where f.oid in ${members('pg_proc')}
union all
select 'type', t.typname, ${build({
  typtype: 't.typtype',
  base: wrap(
    'case when t.typbasetype <> 0 then pg_catalog.format_type(t.typbasetype, t.typtypmod) end',
  ),
  notNull: 't.typnotnull',
  default: wrap('pg_catalog.pg_get_expr(t.typdefaultbin, 0)'),
  collation: collation('t.typcollation'),
  labels: `(select pg_catalog.jsonb_agg(l.enumlabel order by l.enumsortorder) from pg_catalog.pg_enum l where l.enumtypid = t.oid)`,
  range: `(
    select ${build({
      subtype: wrap('pg_catalog.format_type(g.rngsubtype, null)'),
      functions: `pg_catalog.jsonb_build_array(${routine('g.rngcanonical')}, ${routine('g.rngsubdiff')})`,
      opclass: '(select c.opcname from pg_catalog.pg_opclass c where c.oid = g.rngsubopc)',
      collation: collation('g.rngcollation'),
      multirange: '(select m.typname from pg_catalog.pg_type m where m.oid = g.rngmultitypid)',
    })} from pg_catalog.pg_range g where g.rngtypid = t.oid)`,
  grants: grants("coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))", 't.typowner'),
})}
from pg_catalog.pg_type t where t.oid in ${members('pg_type')}
union all
select 'operator', o.oprname || '(' || pg_catalog.format_type(nullif(o.oprleft, 0), null) || ', ' || pg_catalog.format_type(o.oprright, null) || ')', ${build(
  {
    functions: `pg_catalog.jsonb_build_array(${routine('o.oprcode')}, ${routine('o.oprrest')}, ${routine('o.oprjoin')})`,
    operators: `pg_catalog.jsonb_build_array(${operator('o.oprcom')}, ${operator('o.oprnegate')})`,
    traits: 'pg_catalog.jsonb_build_array(o.oprcanhash, o.oprcanmerge)',
  },
)}
from pg_catalog.pg_operator o where o.oid in ${members('pg_operator')}
union all
select 'cast', pg_catalog.format_type(k.castsource, null) || ' as ' || pg_catalog.format_type(k.casttarget, null), ${build({ function: routine('k.castfunc'), traits: 'pg_catalog.jsonb_build_array(k.castmethod, k.castcontext)' })}
from pg_catalog.pg_cast k where (k.castsource in ${members('pg_type')} or k.casttarget in ${members('pg_type')})
union all
select 'collation', k.collname, pg_catalog.to_jsonb(k) - array['oid', 'collname', 'collnamespace', 'collowner', 'collversion']
from pg_catalog.pg_collation k where k.oid in ${members('pg_collation')}
union all
select 'text search dictionary', d.dictname, ${build({ options: 'd.dictinitoption', template: '(select t.tmplname from pg_catalog.pg_ts_template t where t.oid = d.dicttemplate)' })}
from pg_catalog.pg_ts_dict d where d.oid in ${members('pg_ts_dict')}
union all
select 'text search configuration', c.cfgname, ${build({
  parser: '(select p.prsname from pg_catalog.pg_ts_parser p where p.oid = c.cfgparser)',
  mappings:
    '(select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(m.maptokentype, d.dictname) order by m.maptokentype, m.mapseqno) from pg_catalog.pg_ts_config_map m join pg_catalog.pg_ts_dict d on d.oid = m.mapdict where m.mapcfg = c.oid)',
})}
from pg_catalog.pg_ts_config c where c.oid in ${members('pg_ts_config')}
union all
select 'extension', x.extname, pg_catalog.to_jsonb(x.extversion) from pg_catalog.pg_extension x join own on x.extnamespace = own.oid
union all
select 'other', i.type, ${wrap('pg_catalog.pg_describe_object(d.classid, d.objid, 0)')}
from member d cross join lateral pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
where d.classid not in ('pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_type'::pg_catalog.regclass,
    'pg_catalog.pg_extension'::pg_catalog.regclass, 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass,
    'pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_collation'::pg_catalog.regclass, 'pg_catalog.pg_ts_dict'::pg_catalog.regclass, 'pg_catalog.pg_ts_config'::pg_catalog.regclass)`
