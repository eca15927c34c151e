-- Takes the lock that lets one retention run at a time, if it is free.
--
-- row: is_taken bool               this session holds the lock, until it ends
--
-- The server frees the lock when the process dies. The key of two ints lies apart from the bigint
-- keys that the heartbeat locks profiles with.
select pg_try_advisory_lock(hashtext('viewing-time retention'), 0) as is_taken
