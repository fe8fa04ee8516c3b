import pg from 'pg'

/**
 * What a schema is made of, as the statements that make it again need it: one row for each object, and the edges of `pg_depend` between them.
 *
 * These queries are _declared_ as cursors while the path is `pg_catalog` alone, which binds every operator and function in them to the server's own, and _fetched_ while the path is the one that
 * the statements will run under, with the other schema in front: so Postgres leaves the schema's own name out of every definition that it prints, also where the name shadows one of `pg_catalog`.
 */
export function factsSql(schema: string): string {
  return FACTS.replaceAll('$schema', () => pg.escapeLiteral(schema))
}

/** As {@link factsSql}: who needs whom, by `classid:objid`. */
export function edgesSql(schema: string): string {
  return EDGES.replaceAll('$schema', () => pg.escapeLiteral(schema))
}

/** As {@link factsSql}: objects that cannot be made again. */
export function obstaclesSql(schema: string): string {
  return OBSTACLES.replaceAll('$schema', () => pg.escapeLiteral(schema))
}

const build = (members: Readonly<Record<string, string>>): string =>
  `jsonb_build_object(${Object.entries(members)
    .map(([name, sql]) => `'${name}', ${sql}`)
    .join(', ')})`

const id = (catalogue: string, oid: string): string =>
  `'${catalogue}'::regclass::oid || ':' || ${oid}`

const fact = (
  kind: string,
  catalogue: string,
  oid: string,
  members: Readonly<Record<string, string>>,
  from: string,
): string =>
  `select '${kind}' as kind, ${id(catalogue, oid)} as id, ${oid} as position, ${build(members)} as facts from ${from}`

/** A name of the schema itself stands alone, all others are qualified. `quoted` is the name as it is written behind the schema's. */
const named = (quoted: string, namespace: string): string =>
  `case when ${namespace} <> own.oid then ${namespace}::regnamespace::text || '.' else '' end || ${quoted}`

const routineName = (oid: string): string =>
  `(select ${named('quote_ident(routine.proname)', 'routine.pronamespace')} from pg_proc routine where routine.oid = ${oid})`
const operatorName = (oid: string): string =>
  `(select 'operator(' || ${named('operator.oprname', 'operator.oprnamespace')} || ')' from pg_operator operator where operator.oid = ${oid})`
const collationName = (oid: string): string =>
  `(select ${named('quote_ident(locale.collname)', 'locale.collnamespace')} from pg_collation locale where locale.oid = ${oid})`
const tablespaceName = (oid: string): string =>
  `(select space.spcname from pg_tablespace space where space.oid = ${oid})`
const roleName = (oid: string): string => `pg_get_userbyid(${oid})`

/** Whose it is, and who may do what; `null` where nothing was ever granted or revoked. */
const rights = (acl: string, owner: string): Readonly<Record<string, string>> => ({
  owner: roleName(owner),
  rights: entries(acl),
})
// An empty list is not the same as none: everything was revoked, also from the owner.
const entries = (acl: string): string =>
  `(select case when ${acl} is not null then coalesce(jsonb_agg(jsonb_build_object('grantee', case when x.grantee <> 0 then ${roleName('x.grantee')} end, 'grantor', ${roleName('x.grantor')}, 'right', x.privilege_type, 'grantable', x.is_grantable) order by x.position), '[]') end
    from aclexplode(${acl}) with ordinality x (grantor, grantee, privilege_type, is_grantable, position))`

const SEQUENCE = build({
  name: 'q.relname',
  type: 'format_type(s.seqtypid, null)',
  start: 's.seqstart::text',
  increment: 's.seqincrement::text',
  min: 's.seqmin::text',
  max: 's.seqmax::text',
  cache: 's.seqcache::text',
  cycle: 's.seqcycle',
  persistence: 'q.relpersistence',
})

// What the schema holds at first hand, by the only catalogue that has an index by schema.
const WITH = `with own as materialized (
  select n.oid, n.nspname, n.nspowner, n.nspacl, (select a.oid from pg_roles a where a.rolname = current_user) as me from pg_namespace n where n.nspname = $schema
),
member as materialized (
  select d.classid, d.objid from own join pg_depend d on d.refobjid = own.oid
  where d.refclassid = 'pg_namespace'::regclass and d.deptype = 'n'
    and not exists (select from pg_depend e where e.classid = d.classid and e.objid = d.objid and e.deptype = 'e')
), own_type as materialized (
  -- With the row types of tables, and the arrays of all.
  select t.* from pg_type t where t.oid in (select m.objid from member m where m.classid = 'pg_type'::regclass)
  union all
  select t.* from pg_class c join pg_type t on t.oid = c.reltype where c.oid in (select m.objid from member m where m.classid = 'pg_class'::regclass)
), relation as materialized (
  select c.* from pg_class c where c.oid in (select m.objid from member m where m.classid = 'pg_class'::regclass union all select t.typrelid from own_type t)
), table_index as materialized (
  select i.*, x.relname, x.relkind, x.reloptions, x.reltablespace, k.oid as constraint_oid
  from relation r join pg_index i on i.indrelid = r.oid join pg_class x on x.oid = i.indexrelid
  left join pg_constraint k on k.conindid = i.indexrelid and k.conrelid = i.indrelid and k.contype in ('p', 'u', 'x')
), own_constraint as materialized (
  select k.* from relation r join pg_constraint k on k.conrelid = r.oid
  union all
  select k.* from own_type t join pg_constraint k on k.contypid = t.oid where t.typtype = 'd'
), own_cast as materialized (
  select c.* from pg_cast c
  where (c.castsource in (select t.oid from own_type t) or c.casttarget in (select t.oid from own_type t))
    and not exists (select from pg_depend e where e.classid = 'pg_cast'::regclass and e.objid = c.oid and e.deptype in ('e', 'i'))
), everything as materialized (
  select m.classid, m.objid from member m
  union all select 'pg_class'::regclass, i.indexrelid from table_index i
  union all select 'pg_constraint'::regclass, k.oid from own_constraint k
  union all select 'pg_trigger'::regclass, g.oid from relation r join pg_trigger g on g.tgrelid = r.oid where not g.tgisinternal
  union all select 'pg_rewrite'::regclass, w.oid from relation r join pg_rewrite w on w.ev_class = r.oid
  union all select 'pg_policy'::regclass, p.oid from relation r join pg_policy p on p.polrelid = r.oid
  union all select 'pg_attrdef'::regclass, d.oid from relation r join pg_attrdef d on d.adrelid = r.oid
  union all select 'pg_cast'::regclass, c.oid from own_cast c
  union all select 'pg_class'::regclass, r.oid from relation r where r.relkind = 'c'
)`

const members = (catalogue: string): string =>
  `(select m.objid from member m where m.classid = '${catalogue}'::regclass)`

const COLUMNS = `(
  select jsonb_agg(${build({
    number: 'a.attnum',
    name: 'a.attname',
    type: 'format_type(a.atttypid, a.atttypmod)',
    typeId: id('pg_type', 'a.atttypid'),
    collation: `case when a.attcollation <> t.typcollation then ${collationName('a.attcollation')} end`,
    notNull: 'a.attnotnull',
    identity: "nullif(a.attidentity::text, '')",
    sequence: `case when a.attidentity <> '' then (
      select ${SEQUENCE} from pg_depend d join pg_class q on q.oid = d.objid join pg_sequence s on s.seqrelid = q.oid
      where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.deptype = 'i' limit 1) end`,
    generated: "nullif(a.attgenerated::text, '')",
    default:
      '(select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d where d.adrelid = a.attrelid and d.adnum = a.attnum)',
    defaultId: `(select ${id('pg_attrdef', 'd.oid')} from pg_attrdef d where d.adrelid = a.attrelid and d.adnum = a.attnum)`,
    local: 'a.attislocal',
    inherited: 'a.attinhcount > 0',
    storage:
      "case when a.attstorage <> t.typstorage then case a.attstorage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end end",
    compression: "case a.attcompression when 'p' then 'pglz' when 'l' then 'lz4' end",
    statistics: 'nullif(a.attstattarget, -1)',
    options: `(select jsonb_agg(o order by o collate "C") from unnest(a.attoptions) o where o like 'n_distinct%')`,
  })} order by a.attnum)
  from pg_attribute a join pg_type t on t.oid = a.atttypid where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped)`

const FACTS = `${WITH}
${fact('schema', 'pg_namespace', 'own.oid', rights('own.nspacl', 'own.nspowner'), 'own')}
union all
${fact(
  'initial rights',
  'pg_type',
  'k.number',
  {
    kind: 'k.kind',
    // What is built in, for an owner of whatever name; and what the current user's objects begin with, if default privileges say otherwise.
    builtIn: entries('acldefault(k.letter, own.me)'),
    here: entries(
      '(select d.defaclacl from pg_default_acl d where d.defaclrole = own.me and d.defaclnamespace = 0 and d.defaclobjtype = k.objtype)',
    ),
  },
  `own cross join (values ('schema', 'n'::"char", 'n'::"char", 1), ('table', 'r', 'r', 2), ('sequence', 's', 'S', 3), ('routine', 'f', 'f', 4), ('type', 'T', 'T', 5)) k (kind, letter, objtype, number)`,
)}
union all
${fact(
  'collation',
  'pg_collation',
  'k.oid',
  { name: 'k.collname', owner: roleName('k.collowner') },
  `pg_collation k where k.oid in ${members('pg_collation')}`,
)}
union all
${fact(
  'dictionary',
  'pg_ts_dict',
  'd.oid',
  {
    name: 'd.dictname',
    owner: roleName('d.dictowner'),
    template: `(select ${named('quote_ident(t.tmplname)', 't.tmplnamespace')} from pg_ts_template t where t.oid = d.dicttemplate)`,
    options: 'd.dictinitoption',
  },
  `pg_ts_dict d cross join own where d.oid in ${members('pg_ts_dict')}`,
)}
union all
${fact(
  'text search',
  'pg_ts_config',
  'c.oid',
  {
    name: 'c.cfgname',
    owner: roleName('c.cfgowner'),
    parser: `(select ${named('quote_ident(p.prsname)', 'p.prsnamespace')} from pg_ts_parser p where p.oid = c.cfgparser)`,
    mappings: `(
      select jsonb_agg(jsonb_build_array(m.alias, m.dictionaries) order by m.alias) from (
        select k.alias, string_agg(${named('quote_ident(d.dictname)', 'd.dictnamespace')}, ', ' order by m.mapseqno) as dictionaries
        from pg_ts_config_map m join ts_token_type(c.cfgparser) k on k.tokid = m.maptokentype join pg_ts_dict d on d.oid = m.mapdict
        where m.mapcfg = c.oid group by k.alias) m)`,
  },
  `pg_ts_config c cross join own where c.oid in ${members('pg_ts_config')}`,
)}
union all
${fact(
  'type',
  'pg_type',
  't.oid',
  {
    name: 't.typname',
    typtype: 't.typtype',
    array: id('pg_type', 't.typarray'),
    multirange: `(select ${id('pg_type', 'g.rngmultitypid')} from pg_range g where g.rngtypid = t.oid)`,
    multirangeArray: `(select ${id('pg_type', 'm.typarray')} from pg_range g join pg_type m on m.oid = g.rngmultitypid where g.rngtypid = t.oid)`,
    relation: `case when t.typrelid <> 0 then ${id('pg_class', 't.typrelid')} end`,
    constructors: `(select jsonb_agg(${id('pg_proc', 'd.objid')}) from pg_depend d where d.refclassid = 'pg_type'::regclass and d.refobjid = t.oid and d.classid = 'pg_proc'::regclass and d.deptype = 'i')`,
    labels: `(select jsonb_agg(l.enumlabel order by l.enumsortorder) from pg_enum l where l.enumtypid = t.oid)`,
    base: 'case when t.typbasetype <> 0 then format_type(t.typbasetype, t.typtypmod) end',
    baseId: id('pg_type', 't.typbasetype'),
    notNull: 't.typnotnull',
    default: "case when t.typtype = 'd' then pg_get_expr(t.typdefaultbin, 0) end",
    collation: `case when t.typtype = 'd' and t.typcollation <> (select b.typcollation from pg_type b where b.oid = t.typbasetype) then ${collationName('t.typcollation')} end`,
    attributes: `(
      select jsonb_agg(jsonb_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'collation', case when a.attcollation <> b.typcollation then ${collationName('a.attcollation')} end) order by a.attnum)
      from pg_attribute a join pg_type b on b.oid = a.atttypid where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped and t.typtype = 'c')`,
    range: `(
      select jsonb_build_object('subtype', format_type(g.rngsubtype, null),
        'opclass', (select case when not c.opcdefault then ${named('quote_ident(c.opcname)', 'c.opcnamespace')} end from pg_opclass c where c.oid = g.rngsubopc),
        'collation', case when g.rngcollation <> (select b.typcollation from pg_type b where b.oid = g.rngsubtype) then ${collationName('g.rngcollation')} end,
        'canonical', ${routineName('nullif(g.rngcanonical, 0)')}, 'diff', ${routineName('nullif(g.rngsubdiff, 0)')},
        'multirange', (select m.typname from pg_type m where m.oid = g.rngmultitypid))
      from pg_range g where g.rngtypid = t.oid)`,
    ...rights('t.typacl', 't.typowner'),
  },
  // Tables, views and the arrays of all bring theirs along, ranges their multiranges.
  `own_type t cross join own left join pg_class c on c.oid = t.typrelid
   where t.typtype in ('e', 'd', 'r') or c.relkind = 'c'`,
)}
union all
${fact(
  'row type',
  'pg_type',
  't.oid',
  {
    array: id('pg_type', 't.typarray'),
    relation: id('pg_class', 't.typrelid'),
  },
  `own_type t join pg_class c on c.oid = t.typrelid where c.relkind <> 'c'`,
)}
union all
${fact(
  'sequence',
  'pg_class',
  'q.oid',
  {
    name: 'q.relname',
    sequence: SEQUENCE,
    owned: `(
      select jsonb_build_object('table', ${id('pg_class', 'd.refobjid')}, 'column', a.attname, 'type', d.deptype)
      from pg_depend d join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
      where d.classid = 'pg_class'::regclass and d.objid = q.oid and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') limit 1)`,
    ...rights('q.relacl', 'q.relowner'),
  },
  'relation q join pg_sequence s on s.seqrelid = q.oid cross join own',
)}
union all
${fact(
  'routine',
  'pg_proc',
  'f.oid',
  {
    name: 'f.proname',
    prokind: 'f.prokind',
    // Of an aggregate the types alone: ORDER BY, which may stand between them, is only for CREATE AGGREGATE.
    signature: `case when f.prokind = 'a' then (select coalesce(string_agg(format_type(a.type, null), ', ' order by a.position), '') from unnest(f.proargtypes::oid[]) with ordinality a (type, position)) else pg_get_function_identity_arguments(f.oid) end`,
    // What pg_get_functiondef begins with, so that it can be taken off.
    head: "format('CREATE OR REPLACE %s %s.%s', case f.prokind when 'p' then 'PROCEDURE' else 'FUNCTION' end, quote_ident(own.nspname), quote_ident(f.proname))",
    definition: "case when f.prokind <> 'a' then pg_get_functiondef(f.oid) end",
    sqlBody: 'pg_get_function_sqlbody(f.oid)',
    arguments: 'pg_get_function_arguments(f.oid)',
    source: 'f.prosrc',
    config: 'to_jsonb(f.proconfig)',
    parallel:
      "case f.proparallel when 's' then 'safe' when 'r' then 'restricted' else 'unsafe' end",
    aggregate: `(
      select jsonb_build_object('kind', a.aggkind, 'sfunc', ${routineName('a.aggtransfn')}, 'stype', format_type(a.aggtranstype, null), 'sspace', nullif(a.aggtransspace, 0),
        'finalfunc', ${routineName('nullif(a.aggfinalfn, 0)')}, 'finalfunc_extra', a.aggfinalextra, 'finalfunc_modify', a.aggfinalmodify,
        'combinefunc', ${routineName('nullif(a.aggcombinefn, 0)')}, 'serialfunc', ${routineName('nullif(a.aggserialfn, 0)')}, 'deserialfunc', ${routineName('nullif(a.aggdeserialfn, 0)')},
        'initcond', a.agginitval, 'msfunc', ${routineName('nullif(a.aggmtransfn, 0)')}, 'minvfunc', ${routineName('nullif(a.aggminvtransfn, 0)')},
        'mstype', case when a.aggmtranstype <> 0 then format_type(a.aggmtranstype, null) end, 'msspace', nullif(a.aggmtransspace, 0),
        'mfinalfunc', ${routineName('nullif(a.aggmfinalfn, 0)')}, 'mfinalfunc_extra', a.aggmfinalextra, 'mfinalfunc_modify', a.aggmfinalmodify, 'minitcond', a.aggminitval,
        'sortop', ${operatorName('nullif(a.aggsortop, 0)')})
      from pg_aggregate a where a.aggfnoid = f.oid)`,
    ...rights('f.proacl', 'f.proowner'),
  },
  `pg_proc f cross join own where f.oid in ${members('pg_proc')}
   and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.refclassid = 'pg_type'::regclass and d.deptype = 'i')`,
)}
union all
${fact(
  'operator',
  'pg_operator',
  'o.oid',
  {
    name: 'o.oprname',
    left: 'case when o.oprleft <> 0 then format_type(o.oprleft, null) end',
    right: 'format_type(o.oprright, null)',
    function: routineName('o.oprcode'),
    commutator: operatorName('nullif(o.oprcom, 0)'),
    negator: operatorName('nullif(o.oprnegate, 0)'),
    restrict: routineName('nullif(o.oprrest, 0)'),
    join: routineName('nullif(o.oprjoin, 0)'),
    hashes: 'o.oprcanhash',
    merges: 'o.oprcanmerge',
    owner: roleName('o.oprowner'),
  },
  `pg_operator o cross join own where o.oid in ${members('pg_operator')}`,
)}
union all
${fact(
  'cast',
  'pg_cast',
  'c.oid',
  {
    source: 'format_type(c.castsource, null)',
    target: 'format_type(c.casttarget, null)',
    method: 'c.castmethod',
    context: 'c.castcontext',
    function: `case when c.castfunc <> 0 then ${routineName('c.castfunc')} || '(' || pg_get_function_identity_arguments(c.castfunc) || ')' end`,
  },
  'own_cast c cross join own',
)}
union all
${fact(
  'table',
  'pg_class',
  'r.oid',
  {
    name: 'r.relname',
    relkind: 'r.relkind',
    persistence: 'r.relpersistence',
    options: 'to_jsonb(r.reloptions)',
    toastOptions: `(select to_jsonb(toast.reloptions) from pg_class toast where toast.oid = r.reltoastrelid)`,
    toasted: 'r.reltoastrelid <> 0',
    accessMethod: '(select a.amname from pg_am a where a.oid = r.relam)',
    tablespace: tablespaceName('r.reltablespace'),
    ofType: 'case when r.reloftype <> 0 then format_type(r.reloftype, null) end',
    partitionKey: "case r.relkind when 'p' then pg_get_partkeydef(r.oid) end",
    partitionBound: 'pg_get_expr(r.relpartbound, r.oid)',
    parents: `(select jsonb_agg(${id('pg_class', 'h.inhparent')} order by h.inhseqno) from pg_inherits h where h.inhrelid = r.oid)`,
    replicaIdentity: 'r.relreplident',
    replicaIndex:
      '(select i.relname from table_index i where i.indrelid = r.oid and i.indisreplident)',
    clusterIndex:
      '(select i.relname from table_index i where i.indrelid = r.oid and i.indisclustered)',
    rowSecurity: 'r.relrowsecurity',
    hidden: 'row_security_active(r.oid)',
    forceRowSecurity: 'r.relforcerowsecurity',
    columns: COLUMNS,
    ...rights('r.relacl', 'r.relowner'),
  },
  "relation r cross join own where r.relkind in ('r', 'p')",
)}
union all
${fact(
  'view',
  'pg_class',
  'r.oid',
  {
    name: 'r.relname',
    relkind: 'r.relkind',
    options: 'to_jsonb(r.reloptions)',
    accessMethod: '(select a.amname from pg_am a where a.oid = r.relam)',
    tablespace: tablespaceName('r.reltablespace'),
    populated: 'r.relispopulated',
    toasted: 'r.reltoastrelid <> 0',
    definition: 'pg_get_viewdef(r.oid)',
    rule: `(select ${id('pg_rewrite', 'w.oid')} from pg_rewrite w where w.ev_class = r.oid and w.rulename = '_RETURN')`,
    clusterIndex:
      '(select i.relname from table_index i where i.indrelid = r.oid and i.indisclustered)',
    columns: COLUMNS,
    ...rights('r.relacl', 'r.relowner'),
  },
  "relation r cross join own where r.relkind in ('v', 'm')",
)}
union all
${fact(
  'constraint',
  'pg_constraint',
  'k.oid',
  {
    name: 'k.conname',
    contype: 'k.contype',
    table: `case when k.conrelid <> 0 then ${id('pg_class', 'k.conrelid')} end`,
    domain: `case when k.contypid <> 0 then ${id('pg_type', 'k.contypid')} end`,
    column: `case k.contype when 'n' then (select a.attname from pg_attribute a where a.attrelid = k.conrelid and a.attnum = k.conkey[1]) end`,
    index: `case when k.conindid <> 0 then ${id('pg_class', 'k.conindid')} end`,
    indexOptions: '(select to_jsonb(x.reloptions) from pg_class x where x.oid = k.conindid)',
    tablespace: `(select ${tablespaceName('x.reltablespace')} from pg_class x where x.oid = k.conindid and k.contype in ('p', 'u', 'x'))`,
    definition: 'pg_get_constraintdef(k.oid)',
    validated: 'k.convalidated',
    local: 'k.conislocal',
    inherited: 'k.coninhcount > 0',
    parent: `case when k.conparentid <> 0 then ${id('pg_constraint', 'k.conparentid')} end`,
    references: `case when k.contype = 'f' then ${id('pg_class', 'k.confrelid')} end`,
  },
  "own_constraint k where k.contype <> 't'",
)}
union all
${fact(
  'index',
  'pg_class',
  'i.indexrelid',
  {
    name: 'i.relname',
    table: id('pg_class', 'i.indrelid'),
    constraint: `case when i.constraint_oid is not null then ${id('pg_constraint', 'i.constraint_oid')} end`,
    unique: 'i.indisunique',
    partitioned: "i.relkind = 'I'",
    // What pg_get_indexdef begins with, so that it can be taken off.
    head: `format('CREATE %sINDEX %s ON %s%s.%s', case when i.indisunique then 'UNIQUE ' else '' end, quote_ident(i.relname), case i.relkind when 'I' then 'ONLY ' else '' end, quote_ident(own.nspname), quote_ident(r.relname))`,
    definition: 'pg_get_indexdef(i.indexrelid)',
    tablespace: tablespaceName('i.reltablespace'),
    parent: `(select ${id('pg_class', 'h.inhparent')} from pg_inherits h where h.inhrelid = i.indexrelid)`,
    statistics: `(select jsonb_agg(jsonb_build_array(a.attnum, a.attstattarget) order by a.attnum) from pg_attribute a where a.attrelid = i.indexrelid and a.attstattarget >= 0)`,
  },
  'table_index i join relation r on r.oid = i.indrelid cross join own',
)}
union all
${fact(
  'statistics',
  'pg_statistic_ext',
  's.oid',
  {
    name: 's.stxname',
    table: id('pg_class', 's.stxrelid'),
    kinds: '(select jsonb_agg(e) from unnest(s.stxkind) e)',
    columns: 'pg_get_statisticsobjdef_columns(s.oid)',
    target: 'nullif(s.stxstattarget, -1)',
    owner: roleName('s.stxowner'),
  },
  `pg_statistic_ext s where s.oid in ${members('pg_statistic_ext')}`,
)}
union all
${fact(
  'trigger',
  'pg_trigger',
  'g.oid',
  {
    name: 'g.tgname',
    table: id('pg_class', 'g.tgrelid'),
    definition: 'pg_get_triggerdef(g.oid, true)',
    enabled: 'g.tgenabled',
    parent: 'g.tgparentid <> 0',
  },
  'relation r join pg_trigger g on g.tgrelid = r.oid where not g.tgisinternal',
)}
union all
${fact(
  'rule',
  'pg_rewrite',
  'w.oid',
  {
    name: 'w.rulename',
    table: id('pg_class', 'w.ev_class'),
    definition: 'pg_get_ruledef(w.oid, true)',
    enabled: 'w.ev_enabled',
  },
  "relation r join pg_rewrite w on w.ev_class = r.oid where w.rulename <> '_RETURN'",
)}
union all
${fact(
  'policy',
  'pg_policy',
  'p.oid',
  {
    name: 'p.polname',
    table: id('pg_class', 'p.polrelid'),
    command:
      "case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end",
    permissive: 'p.polpermissive',
    roles: `(select jsonb_agg(case when o <> 0 then ${roleName('o')} end order by o) from unnest(p.polroles) o)`,
    using: 'pg_get_expr(p.polqual, p.polrelid)',
    check: 'pg_get_expr(p.polwithcheck, p.polrelid)',
  },
  'relation r join pg_policy p on p.polrelid = r.oid',
)}
union all
${fact(
  'column rights',
  'pg_class',
  'r.oid',
  {
    column: 'a.attname',
    owner: roleName('r.relowner'),
    rights: entries('a.attacl'),
  },
  "relation r join pg_attribute a on a.attrelid = r.oid and a.attacl is not null and not a.attisdropped where r.relkind <> 'c'",
)}
union all
${fact(
  'default privileges',
  'pg_default_acl',
  'd.oid',
  {
    objects:
      "case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types' else d.defaclobjtype::text end",
    owner: roleName('d.defaclrole'),
    rights: entries('d.defaclacl'),
  },
  'pg_default_acl d join own on d.defaclnamespace = own.oid',
)}
union all
${fact(
  'comment',
  'pg_description',
  'd.objoid',
  {
    on: "d.classoid || ':' || d.objoid",
    column:
      'case when d.objsubid <> 0 then (select a.attname from pg_attribute a where a.attrelid = d.objoid and a.attnum = d.objsubid) end',
    text: 'd.description',
  },
  'everything e join pg_description d on d.classoid = e.classid and d.objoid = e.objid',
)}
order by kind, position`

const EDGES = `${WITH}
select distinct d.classid || ':' || d.objid as source, d.refclassid || ':' || d.refobjid as target
from everything e join pg_depend d on d.classid = e.classid and d.objid = e.objid
where d.refobjid >= 16384 and d.refclassid <> 'pg_namespace'::regclass and (d.classid, d.objid) <> (d.refclassid, d.refobjid)
  -- A sequence that belongs to a column is there before its table.
  and not (d.deptype = 'a' and d.refobjsubid > 0 and exists (select from relation q where q.oid = d.objid and q.relkind = 'S' and d.classid = 'pg_class'::regclass))`

const describe = (classid: string, objid: string): string =>
  `(select i.type || ' ' || i.identity from pg_identify_object(${classid}, ${objid}, 0) i)`

const obstacle = (reason: string, what: string, from: string): string =>
  `select ${pg.escapeLiteral(reason)} as reason, ${what} as name from ${from}`

const OBSTACLES = `${WITH}
${[
  obstacle(
    'of an extension',
    "'extension ' || x.extname",
    'pg_extension x join own on x.extnamespace = own.oid',
  ),
  obstacle(
    'of an extension',
    describe('d.classid', 'd.objid'),
    `own join pg_depend d on d.refobjid = own.oid and d.refclassid = 'pg_namespace'::regclass and d.deptype = 'n'
     where exists (select from pg_depend e where e.classid = d.classid and e.objid = d.objid and e.deptype = 'e')`,
  ),
  obstacle(
    'has its data elsewhere',
    describe("'pg_class'::regclass", 'r.oid'),
    "relation r where r.relkind = 'f'",
  ),
  obstacle(
    'is of a kind that is not copied',
    describe('m.classid', 'm.objid'),
    `member m where m.classid not in ('pg_class'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_collation'::regclass,
       'pg_statistic_ext'::regclass, 'pg_ts_config'::regclass, 'pg_ts_dict'::regclass)`,
  ),
  obstacle(
    'is of a kind that is not copied',
    describe("'pg_class'::regclass", 'r.oid'),
    "relation r where r.relkind not in ('r', 'p', 'v', 'm', 'c', 'S', 'f')",
  ),
  obstacle(
    'is a type made of C functions, or none yet',
    describe("'pg_type'::regclass", 't.oid'),
    // Arrays and multiranges come with their types.
    "own_type t where t.typtype not in ('e', 'd', 'r', 'c', 'm') and not (t.typtype = 'b' and t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc)",
  ),
  obstacle(
    'needs itself, by its canonical function',
    describe("'pg_type'::regclass", 'g.rngtypid'),
    `pg_range g join own_type t on t.oid = g.rngtypid where g.rngcanonical in ${members('pg_proc')}`,
  ),
  obstacle(
    'belongs to a type of the schema',
    describe("'pg_transform'::regclass", 'f.oid'),
    'pg_transform f join own_type t on t.oid = f.trftype',
  ),
  obstacle(
    'is not valid',
    describe("'pg_class'::regclass", 'i.indexrelid'),
    "table_index i where i.relkind = 'i' and not (i.indisvalid and i.indisready and i.indislive)",
  ),
  obstacle(
    'is not enabled as constraints are, which only its own triggers know',
    describe("'pg_constraint'::regclass", 'k.oid'),
    // Counted, so that it is asked for each of them, by an index, and not of all triggers of all tenants.
    "own_constraint k where (select count(*) from pg_trigger g where g.tgconstraint = k.oid and g.tgisinternal and g.tgenabled <> 'O') > 0",
  ),
  obstacle(
    'has relatives outside of the schema',
    describe("'pg_class'::regclass", 'r.oid'),
    `relation r cross join own
     where exists (select from pg_inherits h join pg_class o on o.oid = h.inhparent where h.inhrelid = r.oid and o.relnamespace <> own.oid)
       or exists (select from pg_inherits h join pg_class o on o.oid = h.inhrelid where h.inhparent = r.oid and o.relnamespace <> own.oid)`,
  ),
  obstacle(
    'is in a publication',
    describe("'pg_class'::regclass", 'p.prrelid'),
    'pg_publication_rel p join relation r on r.oid = p.prrelid',
  ),
  obstacle(
    'is of the schema',
    "'publication ' || p.pubname",
    'pg_publication p join pg_publication_namespace n on n.pnpubid = p.oid join own on own.oid = n.pnnspid',
  ),
  obstacle(
    'is filled by a subscription',
    describe("'pg_class'::regclass", 's.srrelid'),
    'pg_subscription_rel s join relation r on r.oid = s.srrelid',
  ),
  obstacle(
    'runs a function of the schema',
    "'event trigger ' || g.evtname",
    `pg_event_trigger g where g.evtfoid in ${members('pg_proc')}`,
  ),
  obstacle(
    'has a security label',
    describe('l.classoid', 'l.objoid'),
    'pg_seclabel l join everything e on e.classid = l.classoid and e.objid = l.objoid',
  ),
  obstacle(
    'takes the place of an operator that the server itself uses',
    describe("'pg_operator'::regclass", 'o.oid'),
    `pg_operator o where o.oid in ${members('pg_operator')} and o.oprname = '=' and o.oprleft = o.oprright and o.oprleft in ('oid'::regtype, 'name'::regtype)`,
  ),
  obstacle(
    'needs the schema of another tenant',
    `${describe('d.classid', 'd.objid')} || ' (' || ${describe('d.refclassid', 'd.refobjid')} || ')'`,
    `everything e join pg_depend d on d.classid = e.classid and d.objid = e.objid
     where d.refobjid >= 16384 and exists (
       select from pg_identify_object(d.refclassid, d.refobjid, 0) i join pg_namespace n on n.nspname = i.schema cross join own
       join pg_description m on m.objoid = n.oid and m.classoid = 'pg_namespace'::regclass and m.objsubid = 0
       where n.oid <> own.oid and starts_with(m.description, 'partywall tenant '))`,
  ),
].join('\nunion\n')}
order by 2, 1`
