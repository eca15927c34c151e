-- depends: 0014_pending_deletions
--
-- The idempotency keys of the latest 100 beats of a session, newest first, 10 bytes each: 8 of the
-- key's hash, 2 of the request's. A player that was offline sends its buffered beats again and has
-- none of them counted twice; a key that comes with another request is refused.
--
-- One value of bytes and no array: finding a key is one search, and adding one is one copy. 1,000
-- bytes keep the row on its page; sessions whose player sends no keys hold a null.
--
-- `recent_marks` (0010), which held 8 keys, is written no more. It stays for instances of the
-- version before, which go on while this migration is applied.
--
-- Without a default the rows stay as they are. The lock shuts everybody out for no longer than it
-- takes to write the catalogue, but later transactions wait as long as this one waits.
set local lock_timeout = '2s';

alter table viewing_sessions add column if not exists recent_keys bytea;
