-- depends: 0002_timezone_default
--
-- How the two tables that every beat writes to are stored and cleaned.
--
-- fillfactor: a beat changes no indexed column, so its new row version needs no index entry where
-- it finds room on the page of the old one (a HOT update), and the next reader of the page takes
-- the old version away. A tenth of each page kept free is enough for that: half a page free made
-- 100 % of the updates HOT instead of 99.6 %, and the table 1.65 times as long. Applies to pages
-- yet to be filled: nothing is rewritten.
--
-- autovacuum: by default it waits until a fifth of the table is dead. Of a year of sessions only
-- the last few hours ever change, so that fifth would be days of traffic: all of it in the part
-- that is read, and then one long run. A fiftieth means short runs and fresh statistics.
--
-- The lock lets reading and writing go on, and shuts out only maintenance, which may hold it for
-- long: then it is better to be told than to hang.
set local lock_timeout = '2s';

alter table viewing_sessions set (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

alter table viewing_time_balances set (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);
