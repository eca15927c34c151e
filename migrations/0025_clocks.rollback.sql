-- Only this service uses the table and the function. Later heartbeats count 30 seconds each.
set local lock_timeout = '2s';

drop function if exists viewing_clock_count (uuid, timestamptz, timestamptz);

drop table if exists viewing_clocks;
