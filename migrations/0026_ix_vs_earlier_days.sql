-- transactional: false
-- depends: 0025_clocks
--
-- Finds the sessions that were watched on several viewing days, also those that started long before
-- the days of a report. Few rows have the column, so the index is small.
--
-- A heartbeat writes to it only when a session continues on a later viewing day. Every other one
-- stays a HOT update. 0005 says why it is built concurrently.
create index concurrently if not exists ix_vs_earlier_days
on viewing_sessions (profile_id, started_at desc)
where earlier_days is not null;
