-- Only this service's heartbeat depends on the function.
drop function if exists viewing_sessions_end_open(uuid, timestamptz);
