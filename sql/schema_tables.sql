-- Looks for the tables of the service, and for the record of migrations, as the role sees them.
--
-- $1 tables text[]
--
-- row: missing text[]              tables that the search path does not lead to, in order
-- row: elsewhere text              a schema with such tables that the search path does not lead to
-- row: is_recorded bool            there is a record of migrations
-- row: is_readable bool            the role may read it
--
-- Reads the catalogue only, so it needs no right and fails on no table. The record is read by a
-- statement of its own (`migration_applied`): the server checks rights before a statement runs,
-- and a role that may only serve would fail there, with a line in the server's log each time.
-- A schema that the role may not use counts as one that the search path does not lead to.
select
    array(
        select t.table_name
        from unnest($1::text[]) with ordinality as t (table_name, place)
        where to_regclass(t.table_name) is null
        order by t.place
    ) as missing,
    (
        select min(n.nspname::text)
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        where c.relname = 'viewing_time_configs'
            and c.relkind in ('r', 'p')
            and not pg_table_is_visible(c.oid)
    ) as elsewhere,
    to_regclass('_yoyo_migration') is not null as is_recorded,
    coalesce(has_table_privilege(to_regclass('_yoyo_migration')::oid, 'select'), false)
        as is_readable
