-- transactional: false
-- depends: 0005_ix_vs_profile_active
--
-- Finds a profile's sessions of a range of days, newest first: history and the weekly report read
-- only the rows that they show. Some live databases lack it.
--
-- Neither column ever changes, so heartbeats do not write to it. 0005 says why it is built
-- concurrently.
create index concurrently if not exists ix_vs_profile_started
on viewing_sessions (profile_id, started_at desc);
