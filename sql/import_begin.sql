-- Lets one import at a time merge, until the transaction ends.
--
-- row: lock_timeout text           how long this transaction may wait for a lock
-- row: lock text                   always empty: the lock's own result
--
-- Imports that share accounts, e-mails and profiles in any order would deadlock; one after the
-- other they cannot. An import may wait longer than a beat may.
select
    set_config('lock_timeout', '30s', true) as lock_timeout,
    pg_advisory_xact_lock(hashtext('viewing-time import'), 0)::text as lock
