-- depends: 0024_earlier_days
--
-- For CREDIT=clock: how far the viewing of a profile has been counted. A heartbeat then counts the
-- seconds since this time, at most 30, so two players of one profile do not use up twice the time.
--
-- The function counts and moves the time. It is a function because a statement sees only rows that
-- were committed before it began, and a heartbeat must see what another instance has just counted:
-- the row lock makes the second one wait, and its update then reads the new row. The lock is taken
-- after that of the session, like the balance.
-- A part of a second that is not counted stays for the next heartbeat, so heartbeats that come a
-- little early or late lose nothing. A clock that is more than 30 seconds behind the stored time was
-- set back: counting starts again from it.
--
-- The foreign key deletes the row with its profile; for its lock see 0018.
set local lock_timeout = '2s';

create table if not exists viewing_clocks (
    profile_id uuid not null,
    counted_until timestamptz not null,  -- viewing is counted up to this time
    constraint viewing_clocks_pkey primary key (profile_id),
    constraint viewing_clocks_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade
);

create or replace function viewing_clock_count(profile uuid, at timestamptz)
returns int
language plpgsql
volatile
set search_path from current
as $$
declare
    until timestamptz;
    seconds int;
begin
    insert into viewing_clocks as c (profile_id, counted_until)
    values (profile, at - interval '30 seconds')
    on conflict (profile_id) do nothing;

    select c.counted_until into strict until
    from viewing_clocks as c
    where c.profile_id = profile
    for no key update;

    seconds := case
        when at < until - interval '30 seconds' then 30
        else greatest(0, least(30, floor(extract(epoch from at - until))))
    end;

    update viewing_clocks as c
    set counted_until = case
        when at between until - interval '30 seconds' and until + interval '31 seconds'
        then until + make_interval(secs => seconds)
        else at
    end
    where c.profile_id = profile;

    return seconds;
end;
$$;
