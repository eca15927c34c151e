-- Takes the lock that lets one process migrate at a time, if it is free.
--
-- row: is_taken bool               this session holds the lock, until it ends
-- row: may_create bool             the role may make tables where the search path leads first
--
-- It asks and does not wait: a session that waits inside a statement keeps a snapshot, and
-- `create index concurrently` waits for every older snapshot to go. The process that builds the
-- index and the one that waits for it would then wait for each other, unnoticed by the server.
-- The key of two ints lies apart from the bigint keys that the heartbeat locks profiles with.
-- The server frees the lock when the process dies, which a row in a table could not promise.
select
    pg_try_advisory_lock(hashtext('viewing-time migrations'), 0) as is_taken,
    coalesce(has_schema_privilege(current_schema(), 'create'), false) as may_create
