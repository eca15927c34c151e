-- Takes the lock that lets one retention run at a time, if it is free.
--
-- row: is_taken bool               this transaction holds the lock, until it ends
-- row: idle_seconds text           how long the transaction may be idle: 0 is without a limit
--
-- The lock is the transaction's, which stays open on a connection of its own for the whole run: a
-- pooler that shares sessions keeps nothing of it, and the server ends it when the process dies.
-- The transaction has written nothing and has no snapshot between statements, so it keeps no vacuum
-- from anything. The key of two ints lies apart from the bigint keys that the heartbeat locks
-- profiles with.
select
    pg_try_advisory_xact_lock(hashtext('viewing-time retention'), 0) as is_taken,
    set_config('idle_in_transaction_session_timeout', '0', true) as idle_seconds
