-- What Citus 12 and later say of distributed schemas, as far as Partywall relies on it, on a Postgres without Citus. It is a record of documentation and of Citus' own regression tests, and no
-- implementation: nothing here leaves the server.
--
-- docs.citusdata.com, develop/reference_ddl "Creating and Distributing Schemas", develop/api_metadata, develop/reference_workarounds "Schema-based Sharding SQL compatibility".
-- citusdata/citus: src/backend/distributed/sql/citus--11.3-1--12.0-1.sql (pg_dist_schema), commands/schema_based_sharding.c,
-- src/test/regress/expected/schema_based_sharding.out and citus_schema_distribute_undistribute.out (the messages).

set allow_system_table_mods = on;

create table pg_catalog.pg_dist_schema (schemaid oid primary key, colocationid int not null unique);
create table pg_catalog.pg_dist_partition (logicalrelid regclass primary key, partmethod "char" not null, partkey text, colocationid int not null, repmodel "char" not null, autoconverted boolean not null default false);
create table pg_catalog.pg_dist_local_group (groupid int primary key);
create table pg_catalog.pg_dist_poolinfo (nodeid int primary key, poolinfo text not null);
create sequence pg_catalog.pg_dist_colocationid_seq;
grant select on pg_catalog.pg_dist_schema, pg_catalog.pg_dist_partition, pg_catalog.pg_dist_local_group, pg_catalog.pg_dist_poolinfo to public;

-- 0 is the coordinator.
insert into pg_catalog.pg_dist_local_group values (0);

insert into pg_catalog.pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
select 60000, 'citus', oid, 'pg_catalog'::regnamespace, false, ':version' from pg_catalog.pg_roles where rolname = current_user;

-- "Return if the schema is already a tenant schema"; "tables in a distributed schema cannot inherit or be inherited"; "foreign keys from distributed schemas can only point to the same distributed schema or
-- reference tables in regular schemas".
create function pg_catalog.citus_schema_distribute(schemaname regnamespace) returns void language plpgsql security definer as $$
declare colocation int;
begin
  if (select groupid from pg_catalog.pg_dist_local_group) <> 0 then raise exception 'operation is not allowed on this node'; end if;
  if exists (select from pg_catalog.pg_dist_schema where schemaid = schemaname) then raise notice 'schema % is already distributed', schemaname; return; end if;
  if exists (select from pg_catalog.pg_inherits h join pg_catalog.pg_class c on c.oid in (h.inhrelid, h.inhparent) where c.relnamespace = schemaname and c.relkind in ('r', 'p') and not c.relispartition and c.relkind = 'r') then
    raise exception 'tables in a distributed schema cannot inherit or be inherited';
  end if;
  if exists (select from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.conrelid join pg_catalog.pg_class t on t.oid = k.confrelid
      where k.contype = 'f' and c.relnamespace = schemaname and t.relnamespace <> c.relnamespace
        and not exists (select from pg_catalog.pg_dist_partition p where p.logicalrelid = t.oid and p.partmethod = 'n' and p.repmodel = 't')) then
    raise exception 'foreign keys from distributed schemas can only point to the same distributed schema or reference tables in regular schemas';
  end if;
  insert into pg_catalog.pg_dist_schema values (schemaname, nextval('pg_catalog.pg_dist_colocationid_seq')) returning colocationid into colocation;
  insert into pg_catalog.pg_dist_partition select c.oid, 'n', null, colocation, 's', false from pg_catalog.pg_class c where c.relnamespace = schemaname and c.relkind in ('r', 'p');
end $$;

create function pg_catalog.create_reference_table(table_name regclass) returns void language sql security definer as
  $$ insert into pg_catalog.pg_dist_partition values (table_name, 'n', null, 1000000, 't') $$;

-- "Each schema created while this GUC is ON will be considered as a tenant schema. Later on, regardless of whether the GUC is ON or OFF, any table created in a tenant schema will be converted to a single shard
-- distributed table"; "public" never is; on a worker: "operation is not allowed on this node".
create function pg_catalog.citus_contract_create() returns event_trigger language plpgsql security definer as $$
declare made record;
begin
  for made in select * from pg_event_trigger_ddl_commands() loop
    if made.command_tag = 'CREATE SCHEMA' and coalesce(nullif(current_setting('citus.enable_schema_based_sharding', true), ''), 'off')::boolean and made.object_identity <> 'public' then
      if (select groupid from pg_catalog.pg_dist_local_group) <> 0 then raise exception 'operation is not allowed on this node'; end if;
      insert into pg_catalog.pg_dist_schema values (made.objid, nextval('pg_catalog.pg_dist_colocationid_seq'));
    elsif made.command_tag = 'CREATE TABLE' then
      if exists (select from pg_catalog.pg_dist_schema s join pg_catalog.pg_class c on c.relnamespace = s.schemaid join pg_catalog.pg_inherits h on h.inhrelid = c.oid where c.oid = made.objid and not c.relispartition) then
        raise exception 'tables in a distributed schema cannot inherit or be inherited';
      end if;
      insert into pg_catalog.pg_dist_partition select c.oid, 'n', null, s.colocationid, 's', false
      from pg_catalog.pg_class c join pg_catalog.pg_dist_schema s on s.schemaid = c.relnamespace where c.oid = made.objid;
    end if;
  end loop;
end $$;
create event trigger citus_contract_create on ddl_command_end when tag in ('CREATE SCHEMA', 'CREATE TABLE') execute function pg_catalog.citus_contract_create();

-- "dropping a tenant schema deletes the associated entry too".
create function pg_catalog.citus_contract_drop() returns event_trigger language plpgsql security definer as $$
begin
  delete from pg_catalog.pg_dist_schema where schemaid in (select objid from pg_event_trigger_dropped_objects() where object_type = 'schema');
  delete from pg_catalog.pg_dist_partition where logicalrelid::oid in (select objid from pg_event_trigger_dropped_objects() where object_type = 'table');
end $$;
create event trigger citus_contract_drop on sql_drop execute function pg_catalog.citus_contract_drop();
