-- Finds tables of the service that are in a later schema of the search path than the first.
--
-- row: table_name text
-- row: its_schema text             where the table is
-- row: first_schema text           where a migration would make an empty one
--
-- `create table ... if not exists` checks the first schema only. That is the role's own if a schema
-- has its name; the tables of a live application are usually in `public`.
select
    t.table_name,
    n.nspname::text as its_schema,
    current_schema()::text as first_schema
from unnest(array[
    'users', 'profiles', 'titles', 'viewing_time_configs', 'viewing_time_balances',
    'viewing_sessions', 'time_grants'
]) with ordinality as t (table_name, place)
join pg_class as c on c.oid = to_regclass(t.table_name)
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname <> current_schema()
order by t.place
