-- depends: 0002_timezone_default
--
-- Storage and vacuuming of the two tables that every heartbeat writes to.
--
-- fillfactor: a heartbeat changes no indexed column, so its new row version needs no index entry if
-- there is room on the page of the old one (a HOT update); the next reader of the page removes the
-- old version. A tenth of each page kept free is enough: half a page made 100 % of the updates HOT
-- instead of 99.6 %, and the table 1.65 times as long. It applies to new pages: nothing is
-- rewritten.
--
-- autovacuum: by default it waits until a fifth of the table is dead. Of a year of sessions only
-- the last few hours change, so that fifth would be days of traffic, all of it in the part that is
-- read, and then one long run. A fiftieth means short runs and fresh statistics.
--
-- The lock allows reads and writes. It excludes only maintenance, which may hold it for long: then
-- an error is better than a long wait.
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
