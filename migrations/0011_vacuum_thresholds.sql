-- depends: 0010_recent_marks
--
-- Vacuums and analyzes the two tables that every heartbeat writes to after a number of rows,
-- whatever the table's size. A share of the rows fits one size only. A fiftieth (0003) of 500
-- million rows is 10 million, two days of retention's deletions, and then one vacuum of hours; a
-- fiftieth of 20,000 rows is 400, so a small table was vacuumed every minute.
--
-- 500,000 dead rows: a vacuum reads every index of the table in full, some 50 GB for 500 million
-- rows, so it should find enough to do. Retention deletes about 5 million sessions a day there,
-- which makes some ten vacuums. Ended heartbeats count little: readers of a page remove the old
-- versions (HOT). A small table grows by 75 MB at most before it is vacuumed.
--
-- 500,000 inserted rows: the same for a table without deletions. The vacuum marks pages as visible
-- to all, so that counting and the final vacuum against wraparound have little to read.
--
-- 1,000,000 changed rows to analyze: it samples 30,000 pages, every 17 minutes at 1,000 heartbeats
-- a second. Retention uses the estimated number of rows, which is that accurate.
--
-- The lock allows reads and writes; it waits for maintenance at most two seconds.
set local lock_timeout = '2s';

alter table viewing_sessions set (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 500000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 500000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000000
);

alter table viewing_time_balances set (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 500000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 500000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000000
);
