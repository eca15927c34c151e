-- Only this service uses the tables. Events that were not delivered are lost.
set local lock_timeout = '2s';

drop table if exists viewing_deliveries;

drop table if exists viewing_event_feed;

drop table if exists viewing_events;

drop function if exists viewing_event_id();
