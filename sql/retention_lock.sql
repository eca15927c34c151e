-- Takes the lock that lets one retention run at a time, if it is free.
--
-- row: is_taken bool               this transaction holds the lock, until it ends
-- row: idle_limit text             how long the transaction may be idle: 0 is without a limit
-- row: transaction_limit text      how long it may last; null before version 17
--
-- The lock is the transaction's, which stays open on a connection of its own for the whole run: a
-- pooler that shares sessions keeps nothing of it, and the server ends it when the process dies.
-- The transaction has written nothing and, being read committed, has no snapshot between its
-- statements, so it keeps no vacuum from anything. The key of two ints lies apart from the bigint
-- keys that the heartbeat locks profiles with.
select
    pg_try_advisory_xact_lock(hashtext('viewing-time retention'), 0) as is_taken,
    set_config('idle_in_transaction_session_timeout', '0', true) as idle_limit,
    case
        when current_setting('transaction_timeout', true) is not null
        then set_config('transaction_timeout', '0', true)
    end as transaction_limit
