-- Waits until no other import is merging, and holds that lock until the transaction ends.
--
-- row: lock_timeout text           limit of this transaction for each wait for a lock
-- row: idle_limit text             limit of this transaction for idle time
-- row: lock text                   always empty: pg_advisory_xact_lock returns void
--
-- The lock is that of a cell, because a dry run holds those of all cells until its end; 0 is the only
-- cell.
-- Two imports at a time could lock accounts, e-mail addresses and profiles in different orders, and
-- deadlock. An import may wait longer for a lock than a heartbeat.
-- A stalled import would hold locks that heartbeats need, so the server ends its transaction after
-- 10 s of idle time. A healthy import is never idle that long: it reads lines while it copies them.
select
    set_config('lock_timeout', '30s', true) as lock_timeout,
    set_config('idle_in_transaction_session_timeout', '10s', true) as idle_limit,
    pg_advisory_xact_lock(
        hashtext('viewing-time import'),
        coalesce((select hashtext(c.name) from viewing_cell as c), 0)
    )::text as lock
