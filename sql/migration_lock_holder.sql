-- Finds the connection that most likely kept a migration from its lock.
--
-- row: pid int
-- row: application_name text
-- row: query_start timestamptz     of its latest query; null where the role may not see it
-- row: query text                  its latest query, first 80 characters, also if it is idle
--
-- No row: no such connection is left.
-- It runs after the lock time-out, when the server no longer reports the holder. A lock is held until
-- its transaction ends, so the oldest transaction is named. Connections with a lock on a table of the
-- service come first. The others count too, because the build of an index waits for every older
-- transaction.
-- pg_locks shows all locks to every role; pg_stat_activity may hide the times.
select
    a.pid,
    a.application_name,
    a.query_start,
    left(regexp_replace(a.query, '\s+', ' ', 'g'), 80) as query
from pg_stat_activity as a
cross join lateral (
    select exists (
        select
        from pg_locks as l
        join pg_class as c on c.oid = l.relation
        where l.pid = a.pid and l.granted and c.relnamespace = current_schema()::regnamespace
    ) as has_our_table
) as h
where a.datname = current_database()
    and a.pid <> pg_backend_pid()
    and (h.has_our_table or a.xact_start is not null)
order by h.has_our_table desc, a.xact_start, a.pid
limit 1
