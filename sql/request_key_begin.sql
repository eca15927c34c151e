-- Limits how long the transaction of a request with an Idempotency-Key waits for its process.
--
-- $1 most_ms int                   as long as a request may take
--
-- row: idle_limit text             between two statements
-- row: statement_limit text        within one
--
-- A process that stands still between two statements keeps its rows locked. The server then ends
-- the transaction, so that heartbeats of the same profile need not wait for the process. The driver
-- can also stand still between the parsing of a statement and its arguments, where the server
-- regards the statement as running. The limits are the transaction's own, so they also hold behind
-- a pooler, and nothing of them is left for the next transaction.
select
    set_config('idle_in_transaction_session_timeout', $1::int::text, true) as idle_limit,
    set_config('statement_timeout', $1::int::text, true) as statement_limit
