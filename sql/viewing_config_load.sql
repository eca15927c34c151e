-- Reads the policies of profiles; stores the default configuration of those that have none.
--
-- $1 account_ids uuid[]            of the tokens
-- $2 profile_ids uuid[]            in step with $1
-- $3 adults_too bool               true: also store the defaults of adult profiles
-- $4 weekday_limit_minutes int     the defaults
-- $5 weekend_limit_minutes int
-- $6 reset_hour int
-- $7 educational_exempt bool
-- $8 timezone text
-- $9 now timestamptz
-- $10 lock_timeout text            of this statement
-- $11 id_prefix text               24 hexadecimal digits, unique for this statement, sorted by time
--
-- row: position int                in the arrays, from 1; there is a row for each
-- row: is_active bool              the account is active; false if it is unknown
-- row: is_owner bool               the profile is the account's
-- row: is_child bool
-- row: weekday_limit_minutes int   null is unlimited
-- row: weekend_limit_minutes int   null is unlimited
-- row: reset_hour int              null (like the next three) without a configuration
-- row: educational_exempt bool
-- row: timezone text
-- row: updated_at timestamptz
-- row: policy text                 JSON, as service/viewing/policy.py reads it: the schedule, the
--                                  exceptions of the last 8 days and later, a lock, the first day
--                                  of a strict account; null: none
--
-- If two first reads run at once, one inserts. The other waits for `uq_vtc_profile`. Its snapshot
-- does not have the new row, so it returns the row through an update that changes nothing. The
-- statement looks for a stored row first, so that later reads write nothing. Rows are inserted in
-- profile order, so that two batches do not deadlock.
with owner as materialized (
    select
        a.position::int as position,
        coalesce(u.is_active, false) as is_active,
        p.id as profile_id,
        coalesce(p.is_kids, false) as is_child,
        k.profile_id is not null as has_configuration,
        k.weekday_limit_minutes,
        k.weekend_limit_minutes,
        k.reset_hour,
        k.educational_exempt,
        k.timezone,
        k.updated_at,
        case
            when p.is_kids then (
                select json_build_object(
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
                    'day_floor', k.day_floor
                )::text
                from (select) as one
                left join viewing_schedules as z on z.profile_id = p.id
                left join viewing_locks as l on l.profile_id = p.id
                cross join lateral (
                    select json_agg(
                        json_build_array(x.day, x.changes_limit, x.limit_minutes, x.lifts_downtime)
                        order by x.day
                    ) as days
                    from viewing_exceptions as x
                    where x.profile_id = p.id
                        and x.day >= ($9::timestamptz at time zone 'UTC')::date - 8
                ) as e
                where z.profile_id is not null
                    or l.locked_until > $9::timestamptz
                    or e.days is not null
                    or k.day_floor is not null
            )
        end as policy
    from unnest($1::uuid[], $2::uuid[]) with ordinality as a (account_id, profile_id, position)
    left join users as u on u.id = a.account_id
    left join profiles as p on p.id = a.profile_id and p.user_id = u.id
    left join viewing_time_configs as k on k.profile_id = p.id
    where (select set_config('lock_timeout', $10::text, true)) is not null
),
stored as (
    insert into viewing_time_configs as c (
        id, profile_id, weekday_limit_minutes, weekend_limit_minutes, reset_hour,
        educational_exempt, timezone, created_at, updated_at
    )
    select
        ($11::text || lpad(to_hex(o.position), 8, '0'))::uuid,
        o.profile_id,
        $4::int,
        $5::int,
        $6::int,
        $7::bool,
        $8::text,
        $9::timestamptz,
        $9::timestamptz
    from owner as o
    where o.is_active
        and o.profile_id is not null
        and (o.is_child or $3::bool)
        and not o.has_configuration
    order by o.profile_id
    on conflict (profile_id) do update set profile_id = excluded.profile_id
    returning
        c.profile_id, c.weekday_limit_minutes, c.weekend_limit_minutes, c.reset_hour,
        c.educational_exempt, c.timezone, c.updated_at
)
select
    o.position,
    o.is_active,
    o.profile_id is not null as is_owner,
    o.is_child,
    case when o.has_configuration then o.weekday_limit_minutes else s.weekday_limit_minutes end
        as weekday_limit_minutes,
    case when o.has_configuration then o.weekend_limit_minutes else s.weekend_limit_minutes end
        as weekend_limit_minutes,
    case when o.has_configuration then coalesce(o.reset_hour, $6::int) else s.reset_hour end
        as reset_hour,
    case
        when o.has_configuration then coalesce(o.educational_exempt, $7::bool)
        else s.educational_exempt
    end as educational_exempt,
    case when o.has_configuration then coalesce(o.timezone, $8::text) else s.timezone end
        as timezone,
    case when o.has_configuration then coalesce(o.updated_at, $9::timestamptz) else s.updated_at end
        as updated_at,
    o.policy
from owner as o
left join stored as s on s.profile_id = o.profile_id
order by o.position
