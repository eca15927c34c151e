-- Limits a transaction of several statements, in case the process that runs it hangs.
--
-- $1 max_ms int                    the time-out of a request
--
-- row: idle_limit text             between two statements
-- row: transaction_limit text      in all; null before version 17, which has no such limit
--
-- A process that hangs between two statements keeps its rows locked. The server then ends the
-- transaction, so that heartbeats of the same profile do not wait for the process. The second limit
-- is for a process that hangs after it has sent a statement for parsing and before it sends the
-- arguments, which the server does not count as idle. Both limits belong to the transaction, so
-- they work behind a pooler and do not affect the next transaction.
select
    set_config('idle_in_transaction_session_timeout', $1::int::text, true) as idle_limit,
    case
        when current_setting('transaction_timeout', true) is not null
        then set_config('transaction_timeout', $1::int::text, true)
    end as transaction_limit
