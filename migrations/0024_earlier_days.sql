-- depends: 0023_day_limits
--
-- The parts of a session that continues over the reset hour, one for each viewing day except that of
-- the latest heartbeat: [["2026-11-26T05:59:30+00:00", 1800], ...], the last heartbeat on that day and
-- the seconds counted on it. The rest of total_seconds belongs to the day of the latest heartbeat.
-- Times rather than dates, so that the day follows from the zone and the reset hour, like that of a
-- session without parts. Null for nearly all sessions; written once for each reset that a session
-- crosses.
--
-- Without a default the rows stay as they are. The lock excludes every other transaction while the
-- catalogue is written; later transactions wait as long as this one waits for the lock.
set local lock_timeout = '2s';

alter table viewing_sessions add column if not exists earlier_days jsonb;
