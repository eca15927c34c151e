-- Lets one import at a time merge, until the transaction ends.
--
-- row: lock_timeout text           how long this transaction may wait for a lock
-- row: idle_limit text             how long it may be idle
-- row: lock text                   always empty: the lock's own result
--
-- Imports that share accounts, e-mails and profiles in any order would deadlock; one after the
-- other they cannot. An import may wait longer than a beat may.
-- An import that stands still would keep accounts, profiles and titles locked, which heartbeats
-- need, so the server ends its transaction. It is never idle for long: lines are read while they
-- are copied.
select
    set_config('lock_timeout', '30s', true) as lock_timeout,
    set_config('idle_in_transaction_session_timeout', '10s', true) as idle_limit,
    pg_advisory_xact_lock(hashtext('viewing-time import'), 0)::text as lock
