-- Takes the lock that allows one migrating process at a time, if it is free.
--
-- row: is_taken bool               this connection holds the lock until it closes
-- row: may_create bool             the role may create tables in the first schema of its path
--
-- It does not wait: a statement that waits holds a snapshot, and `create index concurrently` waits
-- for every older snapshot. The process that builds the index and the one that waits for the lock
-- would then wait for each other, and the server would not detect it.
-- A key of two ints never equals the bigint keys with which the heartbeat locks profiles.
-- The server frees the lock when the process dies; a row in a table would stay.
select
    pg_try_advisory_lock(hashtext('viewing-time migrations'), 0) as is_taken,
    coalesce(has_schema_privilege(current_schema(), 'create'), false) as may_create
