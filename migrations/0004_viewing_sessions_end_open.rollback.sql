-- Nothing depends on the function but this service's heartbeat.
drop function if exists viewing_sessions_end_open(uuid, timestamptz);
