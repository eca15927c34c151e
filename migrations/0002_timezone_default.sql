-- depends: 0001_tables
--
-- The default of a child's time zone, set right on adopted databases.
--
-- There the text was quoted once too often: the default is 'UTC' with the quotes as part of it,
-- which is no zone. A default is only for rows to come; those with the wrong text stay as they are.
--
-- This locks the table against everybody, for no longer than it takes to write the catalogue. But
-- whoever comes after us in the queue waits as long as we wait: hence not more than two seconds.
set local lock_timeout = '2s';

alter table viewing_time_configs alter column timezone set default 'UTC';
