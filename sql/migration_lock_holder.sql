-- Finds the session that most likely kept a migration from its lock.
--
-- row: pid int
-- row: application_name text
-- row: query_start timestamptz     of its latest query; null where the role may not see it
-- row: query text                  its latest query, first 80 characters; idle ones show it too
--
-- No row: nobody is left who could have.
-- Asked just after the wait has timed out, when the server no longer knows who waited for whom.
-- What was waited for is held for the length of a transaction, so the oldest one is named: first
-- among the sessions with a lock on a table of ours, then among all, since the build of an index
-- waits for older transactions whatever they have touched.
-- pg_locks shows every session's locks to every role; the times in pg_stat_activity it may hide.
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
