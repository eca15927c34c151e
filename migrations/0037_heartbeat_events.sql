-- depends: 0036_requests
--
-- Events of heartbeats: a child is warned or blocked, or a device ends another's session. They are in
-- functions, because a statement opens every table that it names, with all indexes. Heartbeats that
-- announce nothing open no table of events.
--
-- The service sends with each beat the credited seconds from which an event can be due, and what its
-- rules leave before anything is used (service/viewing/announcements.py). Here that is only added up,
-- because the balance is not known before it is written. A test compares the outcome with the decision
-- of the service for thousands of policies.
--
-- The functions of the previous version stay, because its instances may still run.
--
-- The search path is that of the migration, see 0004. They run with the caller's rights.
set local lock_timeout = '2s';

-- Adds the seconds to balances as viewing_balances_count does (see 0030 for locks and plans). It also
-- returns the places of the beats that may announce something, in `due`; null: none. A beat is due
-- if the credited seconds, used minus added ones, have reached its `announce_from`. With an override no
-- limit is reached, so only beats that are always due (-2147483648) remain.
create or replace function viewing_balances_add(
    profiles uuid[], days date[], seconds int[], exempt bool[], places int[], announce_from int[],
    id_prefix text, at timestamptz,
    out children uuid[], out used_seconds int[], out overrides bool[],
    out extended uuid[], out extended_minutes int[], out due int[]
)
language plpgsql
volatile
strict
set search_path from current
set enable_seqscan = off
as $$
declare
    others record;
begin
    with counted as (
        update viewing_time_balances as v
        set
            used_seconds = coalesce(v.used_seconds, 0)
                + case when i.is_exempt then 0 else i.counted end,
            educational_seconds = coalesce(v.educational_seconds, 0)
                + case when i.is_exempt then i.counted else 0 end,
            updated_at = at
        from unnest(profiles, days, seconds, exempt, places, announce_from)
            as i (profile_id, day, counted, is_exempt, place, announces)
        where i.counted > 0
            and v.reset_date = any (array[i.day])
            and v.profile_id = any (array[i.profile_id])
        returning
            v.profile_id, v.used_seconds, v.is_unlimited_override, v.extended_minutes, i.place,
            i.announces
    )
    select
        array_agg(b.profile_id),
        array_agg(b.used_seconds::int),
        array_agg(coalesce(b.is_unlimited_override, false)),
        array_agg(b.profile_id) filter (where b.extended_minutes is not null),
        array_agg(b.extended_minutes) filter (where b.extended_minutes is not null),
        array_agg(b.place) filter (
            where case
                when b.is_unlimited_override then -2147483648
                else b.used_seconds - 60 * coalesce(b.extended_minutes, 0)
            end >= b.announces
        )
    into children, used_seconds, overrides, extended, extended_minutes, due
    from counted as b;

    if children is null or cardinality(children) < cardinality(profiles) then
        select r.*, m.other_profiles, m.other_places, m.other_announces
        into others
        from (
            select
                array_agg(i.profile_id) as other_profiles,
                array_agg(i.day) as other_days,
                array_agg(i.counted) as other_seconds,
                array_agg(i.is_exempt) as other_exempt,
                array_agg(i.place) as other_places,
                array_agg(i.announces) as other_announces
            from unnest(profiles, days, seconds, exempt, places, announce_from)
                as i (profile_id, day, counted, is_exempt, place, announces)
            where i.profile_id <> all (coalesce(children, '{}'))
        ) as m
        cross join lateral viewing_balances_open(
            m.other_profiles, m.other_days, m.other_seconds, m.other_exempt, m.other_places,
            id_prefix, at, cardinality(profiles) > 1
        ) as r;
        due := due || (
            select array_agg(i.place)
            from unnest(others.other_profiles, others.other_places, others.other_announces)
                as i (profile_id, place, announces)
            join unnest(others.children, others.used_seconds, others.overrides)
                as b (profile_id, used, is_lifted)
                on b.profile_id = i.profile_id
            left join unnest(others.extended, others.extended_minutes) as x (profile_id, minutes)
                on x.profile_id = i.profile_id
            where case
                when b.is_lifted then -2147483648
                else b.used - 60 * coalesce(x.minutes, 0)
            end >= i.announces
        );
        children := children || others.children;
        used_seconds := used_seconds || others.used_seconds;
        overrides := overrides || others.overrides;
        extended := extended || others.extended;
        extended_minutes := extended_minutes || others.extended_minutes;
    end if;
end;
$$;

-- Writes the events of the beats that are `due`, once a viewing day each, and returns their number.
-- The arrays of beats, of balances, of sessions and of earlier days are in step, as the heartbeat
-- statement has them. `rules` are JSON, by the place of the beat: seconds of the day's and the week's
-- limit, the most that is rolled over, the earlier days of the week with their limits in minutes,
-- seconds to finish a title, and the seconds until a lock or downtime blocks.
--
-- Lock order: the balances are locked before; the events are inserted in the order of profiles, so an
-- insert that waits for the same event of another transaction cannot be part of a deadlock.
create or replace function viewing_announce(
    due int[], places int[], profiles uuid[], days date[],
    children uuid[], used_seconds int[], overrides bool[], extended uuid[], extended_minutes int[],
    playing int[], session_seconds int[],
    past int[], past_days date[], past_used_seconds int[], past_overrides bool[],
    past_extended_minutes int[], past_limit_minutes int[],
    rules text[], at timestamptz
)
returns int
language plpgsql
volatile
set search_path from current
as $$
declare
    beat int;
    number int;
    balance int;
    rule jsonb;
    credited int;
    carried int;
    earlier record;
    finishes int;
    remaining int;
    reason text;
    left_seconds int;
    overrun int;
    once text;
    written int;
    total int := 0;
begin
    for number in
        select array_position(places, d.place) as number
        from unnest(due) as d (place)
        order by number
    loop
        beat := places[number];
        balance := array_position(children, profiles[number]);
        rule := rules[beat]::jsonb;
        remaining := (rule ->> 'closes_in')::int;
        reason := rule ->> 'closes_by';
        overrun := null;

        if not overrides[balance] then
            credited := used_seconds[balance] - 60 * coalesce(
                extended_minutes[array_position(extended, profiles[number])], 0
            );

            if rule ? 'limit' then
                carried := 0;
                for earlier in
                    select
                        case
                            when p.is_lifted or p.kept = -1 then null
                            else coalesce(p.kept, (e.day ->> 1)::int)
                        end as minutes,
                        coalesce(p.used, 0) as used,
                        coalesce(p.added, 0) as added
                    from jsonb_array_elements(rule -> 'earlier') with ordinality as e (day, place)
                    left join unnest(
                        past, past_days, past_used_seconds, past_overrides, past_extended_minutes,
                        past_limit_minutes
                    ) as p (beat, day, used, is_lifted, added, kept)
                        on p.beat = places[number] and p.day = (e.day ->> 0)::date
                    order by e.place
                loop
                    carried := case
                        when earlier.minutes is null then 0
                        else greatest(0, least(
                            (rule ->> 'rollover')::int,
                            60 * (earlier.minutes + earlier.added) + carried - earlier.used
                        ))
                    end;
                end loop;
                left_seconds := (rule ->> 'limit')::int + carried - credited;
                if left_seconds <= 0 then
                    overrun := -left_seconds;
                end if;
                if remaining is null or greatest(0, left_seconds) < remaining then
                    remaining := greatest(0, left_seconds);
                    reason := 'daily_limit';
                end if;
            end if;

            if rule ? 'weekly' then
                left_seconds := (rule ->> 'weekly')::int - credited - (
                    select coalesce(sum(p.used - 60 * p.added), 0)
                    from unnest(
                        past, past_used_seconds, past_overrides, past_extended_minutes
                    ) as p (beat, used, is_lifted, added)
                    where p.beat = places[number] and not p.is_lifted
                );
                if left_seconds <= 0 then
                    overrun := greatest(overrun, -left_seconds);
                end if;
                if remaining is null or greatest(0, left_seconds) < remaining then
                    remaining := greatest(0, left_seconds);
                    reason := 'weekly_limit';
                end if;
            end if;
        end if;

        if overrun is not null
            and session_seconds[array_position(playing, beat)] > overrun
            and rule ->> 'closes_by' is distinct from 'locked'
        then
            finishes := least(
                coalesce((rule ->> 'finish')::int, 0) - overrun, (rule ->> 'closes_in')::int
            );
            if finishes > 0 then
                remaining := least(finishes, 300);
            end if;
        end if;

        continue when remaining is null or remaining > 900;

        once := to_char(days[number], 'YYYY-MM-DD') || case
            when remaining > 300 then ' warning 15'
            when remaining > 0 then ' warning 5'
            else ' blocked ' || reason
        end;

        insert into viewing_events (account_id, profile_id, type, occurred_at, data, cause)
        select
            p.user_id,
            p.id,
            case when remaining > 0 then 'viewing.warning' else 'viewing.blocked' end,
            at,
            jsonb_build_object('viewing_date', to_char(days[number], 'YYYY-MM-DD'))
            || case
                when remaining > 300 then jsonb_build_object('minutes', 15)
                when remaining > 0 then jsonb_build_object('minutes', 5)
                else jsonb_build_object('reason', reason)
            end,
            once
        from profiles as p
        where p.id = profiles[number]
        on conflict (profile_id, cause) do nothing;
        get diagnostics written = row_count;
        total := total + written;
    end loop;
    return total;
end;
$$;

-- Whether a child whose policy is not cached may have to be warned or blocked on `day`. Such a beat is
-- not recorded, and comes again with its rules: the service knows them then. It errs on the safe side:
-- a child with downtime always is; limits are compared with 25 minutes to spare, for what other
-- transactions count meanwhile; what carries over or was added is left out.
create or replace function viewing_is_close(
    profile uuid, day date, lowest_limit int, at timestamptz
)
returns bool
language plpgsql
stable
set search_path from current
as $$
begin
    return (
        select
            coalesce(l.locked_until > at, false)
            or coalesce(jsonb_array_length(z.downtime) > 0, false)
            or coalesce(
                coalesce(v.used_seconds, 0) + 1500 >= 60 * least(
                    lowest_limit,
                    (
                        select min(d.value::int)
                        from jsonb_each_text(z.daily_limits) as d (name, value)
                    ),
                    (
                        select min(x.limit_minutes)
                        from viewing_exceptions as x
                        where x.profile_id = profile and x.day = viewing_is_close.day
                    )
                ),
                false
            )
            or coalesce(
                60 * z.weekly_limit_minutes <= 1500 + (
                    select coalesce(sum(w.used_seconds), 0)
                    from viewing_time_balances as w
                    where w.profile_id = profile
                        and w.reset_date > viewing_is_close.day - 7
                        and w.reset_date <= viewing_is_close.day
                ),
                false
            )
        from (values (profile)) as o (id)
        left join viewing_locks as l on l.profile_id = o.id
        left join viewing_schedules as z on z.profile_id = o.id
        left join viewing_time_balances as v
            on v.profile_id = o.id and v.reset_date = viewing_is_close.day
    );
end;
$$;

-- Ends every open session of a profile for a new one of `device`; see 0004 and 0016. A session of
-- another device in which a beat arrived during the last five minutes, the length of a counted pause,
-- is displaced, and that is an event. An older one was left behind.
create or replace function viewing_session_begin(profile uuid, at timestamptz, device text)
returns void
language plpgsql
volatile
set search_path from current
as $$
declare
    displaced uuid[];
begin
    perform pg_advisory_xact_lock(uuid_hash_extended(profile, 0));

    with ended as (
        update viewing_sessions as s
        set ended_at = greatest(at, s.started_at)
        where s.profile_id = profile and s.ended_at is null
        returning s.id, s.device_id, s.last_heartbeat_at
    )
    select array_agg(e.id)
    into displaced
    from ended as e
    where e.device_id <> device and e.last_heartbeat_at > at - interval '5 minutes';

    if displaced is not null then
        insert into viewing_events (account_id, profile_id, type, occurred_at, data, cause)
        select
            p.user_id, p.id, 'session.displaced', at, jsonb_build_object('session_id', d.id),
            'displaced ' || d.id
        from unnest(displaced) as d (id)
        join profiles as p on p.id = profile
        on conflict (profile_id, cause) do nothing;
    end if;
end;
$$;
