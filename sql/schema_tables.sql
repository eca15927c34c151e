-- Looks for the tables of the service, and for the record of migrations, as the role sees them.
--
-- $1 tables text[]
--
-- row: missing text[]              tables that are not in the search path, in order
-- row: elsewhere text              a schema outside the search path that has such tables
-- row: is_recorded bool            there is a record of migrations
-- row: is_readable bool            the role may read it
--
-- Reads the catalogue only, so it needs no right and fails on no table. `migration_applied` reads
-- the record, because the server checks rights before a statement runs: for a role that may only
-- serve, one statement would fail each time, with a line in the server's log.
-- A schema that the role may not use counts as outside the search path.
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
