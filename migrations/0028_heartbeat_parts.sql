-- depends: 0027_report_links
--
-- Parts of the heartbeat statement that most heartbeats do not need.
--
-- Why functions: the server opens every table and index that a plan names, and builds and removes
-- every node, at each execution, also if no row reaches them. That was a seventh of the CPU time of a
-- statement with one heartbeat. A function costs nothing until it is called.
--
-- They are stable, so they see what the calling statement sees. The search path is that of the
-- migration, see 0004. They run with the caller's rights.

-- The policies of profiles as JSON, see sql/viewing_config_load.sql; null for a null profile, and
-- for a child without schedule, lock, exceptions and floor. The arrays are in step. Null if there
-- are no profiles.
create or replace function viewing_policies(
    profiles uuid[], days date[], floors date[], at timestamptz
)
returns text[]
language plpgsql
stable
strict
set search_path from current
as $$
begin
    return (
        select array_agg(
            case
                when z.profile_id is not null
                    or l.locked_until > at
                    or e.days is not null
                    or i.day_floor is not null
                then json_build_object(
                    'schedule', case when z.profile_id is not null then json_build_object(
                        'daily_limits', z.daily_limits,
                        'downtime', z.downtime,
                        'weekly_limit_minutes', z.weekly_limit_minutes,
                        'week_starts_on', z.week_starts_on,
                        'rollover_max_minutes', z.rollover_max_minutes,
                        'finish_minutes', z.finish_minutes
                    ) end,
                    'exceptions', e.days,
                    'locked_until', l.locked_until,
                    'day_floor', i.day_floor
                )::text
            end
            order by i.place
        )
        from unnest(profiles, days, floors) with ordinality
            as i (profile_id, day, day_floor, place)
        left join viewing_schedules as z on z.profile_id = i.profile_id
        left join viewing_locks as l on l.profile_id = i.profile_id
        cross join lateral (
            select json_agg(
                json_build_array(x.day, x.changes_limit, x.limit_minutes, x.lifts_downtime)
                order by x.day
            ) as days
            from viewing_exceptions as x
            where x.profile_id = i.profile_id and x.day >= i.day - 8
        ) as e
    );
end;
$$;

-- The balances of profiles before `days`, from `firsts` on, with the place of each beat; null if
-- there are no beats. The arrays that it takes are in step, and those that it returns.
create or replace function viewing_past_balances(
    places int[], profiles uuid[], firsts date[], days date[],
    out past int[], out past_days date[], out past_used_seconds int[], out past_overrides bool[],
    out past_extended_minutes int[], out past_limit_minutes int[]
)
language plpgsql
stable
strict
set search_path from current
as $$
begin
    select
        array_agg(i.place),
        array_agg(v.reset_date),
        array_agg(coalesce(v.used_seconds, 0)::int),
        array_agg(coalesce(v.is_unlimited_override, false)),
        array_agg(coalesce(v.extended_minutes, 0)),
        array_agg(v.limit_minutes)
    into
        past, past_days, past_used_seconds, past_overrides, past_extended_minutes,
        past_limit_minutes
    from unnest(places, profiles, firsts, days) as i (place, profile_id, first, day)
    join viewing_time_balances as v
        on v.profile_id = i.profile_id and v.reset_date >= i.first and v.reset_date < i.day;
end;
$$;

-- The balances of children on a day each; without a row nothing is used. Null if there are no
-- children. The first three arrays are in step, and those of children with an extended day.
create or replace function viewing_day_balances(
    profiles uuid[], days date[],
    out children uuid[], out used_seconds int[], out overrides bool[],
    out extended uuid[], out extended_minutes int[]
)
language plpgsql
stable
strict
set search_path from current
as $$
begin
    select
        array_agg(i.profile_id),
        array_agg(coalesce(v.used_seconds, 0)::int),
        array_agg(coalesce(v.is_unlimited_override, false)),
        array_agg(i.profile_id) filter (where v.extended_minutes is not null),
        array_agg(v.extended_minutes) filter (where v.extended_minutes is not null)
    into children, used_seconds, overrides, extended, extended_minutes
    from unnest(profiles, days) as i (profile_id, day)
    left join viewing_time_balances as v on v.profile_id = i.profile_id and v.reset_date = i.day;
end;
$$;

-- The earlier parts of a session that continues on a new viewing day: one more, with the time of
-- its `latest` beat and the seconds that no other part has.
create or replace function viewing_earlier_parts(kept jsonb, counted int, latest timestamptz)
returns jsonb
language plpgsql
stable
as $$
begin
    return coalesce(kept, '[]') || jsonb_build_array(
        jsonb_build_array(
            latest,
            counted - (
                select coalesce(sum((e.part ->> 1)::int), 0)
                from jsonb_array_elements(kept) as e (part)
            )
        )
    );
end;
$$;

-- Whether another device has ended a session of this device: see sql/heartbeat_record.sql.
create or replace function viewing_session_is_displaced(
    profile uuid, device text, started timestamptz, ended timestamptz
)
returns bool
language plpgsql
stable
set search_path from current
as $$
begin
    return exists (
        select
        from viewing_sessions as x
        where x.profile_id = profile and x.started_at = ended and x.device_id <> device
    )
    or ended = started and exists (
        select
        from viewing_sessions as x
        where x.profile_id = profile
            and x.ended_at is null
            and x.started_at < started
            and x.device_id <> device
    );
end;
$$;
