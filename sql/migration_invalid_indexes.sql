-- Finds indexes that an interrupted build left invalid, and how to drop them.
--
-- $1 names text[]                  the indexes that migrations build concurrently
--
-- row: index_name text
-- row: drop_statement text         runs outside a transaction only
--
-- An invalid index is kept up by every write and used by no query, and it bears the name that
-- `create index ... if not exists` looks for. One that another session is building right now is
-- invalid too; dropping it waits for that session.
select
    c.relname::text as index_name,
    format('drop index concurrently if exists %I.%I', n.nspname, c.relname) as drop_statement
from pg_index as i
join pg_class as c on c.oid = i.indexrelid
join pg_namespace as n on n.oid = c.relnamespace
where not i.indisvalid
    and n.nspname = current_schema()
    and c.relname::text = any ($1::text[])
order by c.relname
