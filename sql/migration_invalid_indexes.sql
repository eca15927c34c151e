-- Finds indexes that are invalid, and how to drop them.
--
-- $1 names text[]                  the indexes that migrations build concurrently
--
-- row: index_name text
-- row: drop_statement text         runs outside a transaction only
-- row: is_being_built bool         a build is running: not to be dropped
--
-- An interrupted build leaves an index that every write maintains and no query uses. It has the
-- name that `create index ... if not exists` looks for.
select
    c.relname::text as index_name,
    format('drop index concurrently if exists %I.%I', n.nspname, c.relname) as drop_statement,
    exists (
        select from pg_stat_progress_create_index as b where b.index_relid = i.indexrelid
    ) as is_being_built
from pg_index as i
join pg_class as c on c.oid = i.indexrelid
join pg_namespace as n on n.oid = c.relnamespace
where not i.indisvalid
    and n.nspname = current_schema()
    and c.relname::text = any ($1::text[])
order by c.relname
