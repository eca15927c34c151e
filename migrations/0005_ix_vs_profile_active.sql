-- transactional: false
-- depends: 0004_viewing_sessions_end_open
--
-- Finds the open session of a profile: the first heartbeat of a new session ends it.
--
-- The index has only open sessions, so its size follows the number of people watching, however long
-- the history is. Only the update that ends a session has to write to it.
--
-- All indexes here are built concurrently: a plain build would block every heartbeat until it is
-- done. A concurrent build cannot run in a transaction, so the file has one statement, and the
-- session that runs it limits the wait for locks (60 s: waiting for older transactions to end
-- blocks nobody, and giving up discards the build). An interrupted build leaves an invalid index,
-- which `if not exists` takes for a valid one. So `migrate` first looks for an invalid index with
-- this file's name without the number, and drops it.
create index concurrently if not exists ix_vs_profile_active
on viewing_sessions (profile_id)
where ended_at is null;
