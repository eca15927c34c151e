-- Finds tables of ours that the search path leads to beyond its first schema.
--
-- row: table_name text
-- row: its_schema text             where the table is
-- row: first_schema text           where migrations would make another one, empty
--
-- `create table ... if not exists` looks nowhere but in the first schema. That is the role's own
-- where a schema bears its name; the tables of a live application are usually in `public`.
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
