-- Restores the function of 0004.
create or replace function viewing_sessions_end_open(profile uuid, at timestamptz)
returns void
language plpgsql
volatile
set search_path from current
as $$
begin
    perform pg_advisory_xact_lock(uuid_hash_extended(profile, 0));

    update viewing_sessions
    set ended_at = at
    where profile_id = profile and ended_at is null;
end;
$$;
