-- depends: 0022_grant_effects
--
-- The limit of a viewing day, kept with its balance.
--
-- limit_minutes: the limit that was in force on a day that is over. It is written when a parent
-- changes a limit, for the days before the change, so no heartbeat writes it. -1 is unlimited. Null:
-- no limit has changed since, so the current one applies.
-- extended_minutes: minutes that grants with mode `extend` have added to the day's limit.
-- latest_credit_seconds: how far the latest grant with mode `credit` lowered used_seconds. It gives
-- the statement of the grant the value before its own update.
--
-- Without a default the rows stay as they are. The lock excludes every other transaction while the
-- catalogue is written; later transactions wait as long as this one waits for the lock.
set local lock_timeout = '2s';

alter table viewing_time_balances
    add column if not exists limit_minutes int,
    add column if not exists extended_minutes int,
    add column if not exists latest_credit_seconds int;
