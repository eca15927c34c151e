-- depends: 0023_day_limits
--
-- The viewing days of a session that continues over the reset hour: [["2026-11-25", 1800], ...],
-- each day with the seconds counted on it. The rest of total_seconds belongs to the day of the
-- latest heartbeat. Null for nearly all sessions; written once for each reset that a session
-- crosses.
--
-- Without a default the rows stay as they are. The lock excludes every other transaction while the
-- catalogue is written; later transactions wait as long as this one waits for the lock.
set local lock_timeout = '2s';

alter table viewing_sessions add column if not exists earlier_days jsonb;
