-- Checks which tables of the service, and which record of migrations, the role can see.
--
-- $1 tables text[]
--
-- row: missing text[]              tables that are not in the search path, in order
-- row: elsewhere text              a schema outside the search path that has such tables
-- row: is_recorded bool            there is a record of migrations
-- row: is_readable bool            the role may read it
--
-- Reads the catalogue only, so it needs no right, and a missing table is not an error.
-- `migration_applied` reads the record: the server checks rights before a statement runs, so for a
-- role without the right a combined statement would always fail, with a line in the server's log.
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
