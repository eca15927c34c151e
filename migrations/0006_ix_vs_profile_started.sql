-- transactional: false
-- depends: 0005_ix_vs_profile_active
--
-- Finds a profile's sessions of a range of days, newest first: history and the weekly report read
-- exactly the rows they show. Some live databases lack it.
--
-- Neither column ever changes, so beats do not touch it. Why concurrently: see 0005.
create index concurrently if not exists ix_vs_profile_started
on viewing_sessions (profile_id, started_at desc);
