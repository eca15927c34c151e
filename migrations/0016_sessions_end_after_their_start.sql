-- depends: 0015_recent_keys
--
-- The function of 0004, with one difference: a session never ends before it starts.
--
-- `at` is the clock of the instance. An instance whose clock was set back, or is behind the one
-- that started the session, would otherwise store an end before the start, and history would show
-- it. Such a session ends at the time at which it started.
create or replace function viewing_sessions_end_open(profile uuid, at timestamptz)
returns void
language plpgsql
volatile
set search_path from current
as $$
begin
    perform pg_advisory_xact_lock(uuid_hash_extended(profile, 0));

    update viewing_sessions
    set ended_at = greatest(at, started_at)
    where profile_id = profile and ended_at is null;
end;
$$;
