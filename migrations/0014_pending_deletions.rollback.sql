-- What is pending is forgotten: an older version knows nothing of it. Ask for the deletions again.
-- The lock waits for an instance that is at work no longer than this.
set local lock_timeout = '2s';

drop table if exists pending_deletions;
