-- depends: 0014_pending_deletions
--
-- The idempotency keys of the latest 100 heartbeats of a session, newest first, 10 bytes each: 8 of
-- the key's hash, 2 of the request's. A player that was offline sends its buffered heartbeats
-- again, and none is counted twice; a key that comes with another request is refused.
--
-- One value of bytes rather than an array: finding a key is one search, and adding one is one copy.
-- 1,000 bytes keep the row on its page; sessions whose player sends no keys have a null.
--
-- `recent_marks` (0010), which has 8 keys, is no longer written. It stays for instances of the
-- previous version, which run while this migration is applied.
--
-- Without a default the rows stay as they are. The lock excludes every other transaction while the
-- catalogue is written; later transactions wait as long as this one waits for the lock.
set local lock_timeout = '2s';

alter table viewing_sessions add column if not exists recent_keys bytea;
