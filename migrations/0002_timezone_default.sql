-- depends: 0001_tables
--
-- Corrects the default of a child's time zone on adopted databases.
--
-- There the text was quoted twice: the default is 'UTC' including the quotes, which is not a zone.
-- A default applies to new rows only; existing rows with the wrong text stay as they are.
--
-- The lock excludes every other transaction while the catalogue is written. Later transactions wait
-- as long as this one waits for the lock, hence the limit of two seconds.
set local lock_timeout = '2s';

alter table viewing_time_configs alter column timezone set default 'UTC';
