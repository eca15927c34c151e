-- depends: 0009_ix_tg_granted_by
--
-- recent_marks: the latest 8 idempotency keys of a session's heartbeats, newest first, as hashes of
-- 128 bits. A heartbeat that comes twice with one key is counted once, whichever instance it
-- reaches. Null for sessions whose player sends no keys, which costs them nothing.
--
-- A column of the session and no table of its own: it is read and written with the row that the
-- heartbeat locks and updates anyway. No index names it, so those updates stay heap-only.
--
-- Without a default the rows stay as they are. The lock shuts everybody out for no longer than it
-- takes to write the catalogue, but whoever comes after us in the queue waits as long as we wait.
set local lock_timeout = '2s';

alter table viewing_sessions add column if not exists recent_marks uuid[];
