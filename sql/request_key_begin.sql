-- Limits how long the transaction of a request with an Idempotency-Key waits for its process.
--
-- $1 most_ms int                   as long as a request may take
--
-- row: idle_limit text             between two statements
-- row: transaction_limit text      in all; null before version 17, which has no such limit
--
-- A process that stands still between two statements keeps its rows locked. The server then ends
-- the transaction, so that heartbeats of the same profile need not wait for the process. The driver
-- can also stand still between the parsing of a statement and its arguments, which the server does
-- not regard as idle: that is what the limit of the transaction is for. The limits are the
-- transaction's own, so they also hold behind a pooler, and the next transaction has none of them.
select
    set_config('idle_in_transaction_session_timeout', $1::int::text, true) as idle_limit,
    case
        when current_setting('transaction_timeout', true) is not null
        then set_config('transaction_timeout', $1::int::text, true)
    end as transaction_limit
