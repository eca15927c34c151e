-- depends: 0009_ix_tg_granted_by
--
-- recent_marks: the latest 8 idempotency keys of a session's heartbeats, newest first, as hashes of
-- 128 bits. A heartbeat that comes twice with one key is counted once, on any instance. Null for
-- sessions whose player sends no keys; they have no cost.
--
-- A column of the session rather than a table: it is read and written with the row that the
-- heartbeat locks and updates anyway. No index has it, so those updates stay heap-only.
--
-- Without a default the rows stay as they are. The lock excludes every other transaction while the
-- catalogue is written; later transactions wait as long as this one waits for the lock.
set local lock_timeout = '2s';

alter table viewing_sessions add column if not exists recent_marks uuid[];
