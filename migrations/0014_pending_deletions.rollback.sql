-- Discards pending deletions, which an older version does not know: request them again. The limit
-- bounds the wait for an instance that is deleting.
set local lock_timeout = '2s';

drop table if exists pending_deletions;
