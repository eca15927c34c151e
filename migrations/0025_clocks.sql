-- depends: 0024_earlier_days
--
-- For CREDIT=clock: how far the viewing of a profile has been counted. A heartbeat then counts the
-- seconds since this time, at most 30, so two players of one profile do not use up twice the time.
--
-- The function counts, moves the time and returns the seconds. It is a function because a statement
-- sees only rows that were committed before it began, and a heartbeat must see what another instance
-- has just counted: the upsert waits for the row and then uses its latest version. It keeps the
-- seconds in the row, because `returning` gives only the new version.
--
-- Lock order: session, clock, balance. A caller that counts for several profiles in one transaction
-- must do it in the order of their ids.
--
-- Fractions of a second: the seconds are rounded, and the time moves by the rounded seconds, so what
-- is rounded up or down now is corrected by the next heartbeat.
-- First heartbeat, and more than 30 seconds since the latest one: 30 seconds, up to `at`.
-- A viewing day never has more seconds than have passed since it began (`begins`).
-- A clock that is behind, by up to 30 seconds: nothing is counted, because this time was counted
-- before. A clock that is further behind was set back: nothing is counted, and counting starts again
-- from it; otherwise nothing would be counted until it has caught up.
--
-- fillfactor: every heartbeat updates the row, see 0003. The foreign key deletes the row with its
-- profile; for its lock see 0018.
set local lock_timeout = '2s';

create table if not exists viewing_clocks (
    profile_id uuid not null,
    counted_until timestamptz not null,  -- viewing is counted up to this time
    latest_seconds int not null,         -- what the latest heartbeat counted
    constraint viewing_clocks_pkey primary key (profile_id),
    constraint viewing_clocks_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade
)
with (fillfactor = 90);

create or replace function viewing_clock_count(
    profile uuid, at timestamptz, begins timestamptz
)
returns int
language plpgsql
volatile
set search_path from current
as $$
declare
    in_day int := greatest(0, floor(extract(epoch from at - begins)));
    counted int;
begin
    insert into viewing_clocks as c (profile_id, counted_until, latest_seconds)
    values (profile, at, least(30, in_day))
    on conflict (profile_id) do update
    set (counted_until, latest_seconds) = (
        select
            case
                when g.gap between -30 and 30
                then c.counted_until + make_interval(secs => greatest(0, g.gap))
                else at
            end,
            greatest(0, least(30, g.gap, in_day))
        from (select round(extract(epoch from at - c.counted_until)) as gap) as g
    )
    returning c.latest_seconds into strict counted;

    return counted;
end;
$$;
