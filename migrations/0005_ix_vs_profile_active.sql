-- transactional: false
-- depends: 0004_viewing_sessions_end_open
--
-- Finds the open session of a profile: the first beat of a new session ends it.
--
-- Holds only open sessions, so it stays as small as the number of people watching, however long
-- the history. Ending a session is the one update that pays for it.
--
-- Built concurrently, like all indexes here: the plain build would shut out every beat until it is
-- done. It may run in no transaction, so such a file holds this one statement, and the waiting for
-- locks is limited by the session that runs it (60 s: the wait for older transactions to end holds
-- nobody up, and giving up throws the build away). An interrupted build leaves an invalid index
-- behind, which `if not exists` takes for a good one: before it applies anything, `migrate` looks
-- for an invalid index with this file's name without the number, and drops it.
create index concurrently if not exists ix_vs_profile_active
on viewing_sessions (profile_id)
where ended_at is null;
