-- Lists the children of an account with their policies and balances, for a report in their own days.
--
-- $1 account_id uuid               the caller
-- $2 max_children int
-- $3 after_id uuid                 children after this one, by name and id; null: from the first
-- $4 from_date date                first viewing day whose balance and exception are returned
--
-- row: is_active bool              the account is active
-- row: is_owner bool               $3 is one of the account's profiles, or null
-- row: profile_id uuid             null (like the rest) in the one row of an account without children
-- row: profile_name text
-- row: weekday_limit_minutes int   null (like the next four) for a child without a configuration
-- row: weekend_limit_minutes int
-- row: reset_hour int
-- row: educational_exempt bool
-- row: timezone text
-- row: policy text                 JSON, as service/viewing/policy.py reads it: limits by day, the
--                                  exceptions, the first day of a strict account; null: none
-- row: balance_days date[]         the days from $4 on that have a balance, in step with the next
--                                  four; null: none
-- row: used_seconds int[]
-- row: overrides bool[]            the limit of the day was lifted
-- row: extended_minutes int[]
-- row: limit_minutes int[]         the limit that was kept with the balance; -1: unlimited
--
-- No row: the account is unknown. Stores no defaults; the caller adds them.
-- The viewing days of a child follow from its zone and reset hour, so `report_days` sums them with a
-- second statement.
-- Uses the index of profiles by account, primary keys, uq_vtc_profile and uq_vtb_profile_date.
select
    u.is_active,
    $3::uuid is null or a.id is not null as is_owner,
    p.id as profile_id,
    p.name as profile_name,
    c.weekday_limit_minutes,
    c.weekend_limit_minutes,
    c.reset_hour,
    c.educational_exempt,
    c.timezone,
    r.policy,
    b.balance_days,
    b.used_seconds,
    b.overrides,
    b.extended_minutes,
    b.limit_minutes
from users as u
left join profiles as a on a.id = $3::uuid and a.user_id = u.id
left join lateral (
    select k.id, k.name
    from profiles as k
    where k.user_id = u.id
        and k.is_kids
        and u.is_active
        and ($3::uuid is null or (k.name collate "C", k.id) > (a.name collate "C", a.id))
    order by k.name collate "C", k.id
    limit $2::int
) as p on true
left join viewing_time_configs as c on c.profile_id = p.id
left join viewing_schedules as z on z.profile_id = p.id
left join lateral (
    select json_agg(
        json_build_array(x.day, x.changes_limit, x.limit_minutes, x.lifts_downtime) order by x.day
    ) as days
    from viewing_exceptions as x
    where x.profile_id = p.id and x.day >= $4::date
) as e on true
left join lateral (
    select json_build_object(
        'schedule', case when z.profile_id is not null then json_build_object(
            'daily_limits', z.daily_limits,
            'week_starts_on', z.week_starts_on,
            'rollover_max_minutes', z.rollover_max_minutes
        ) end,
        'exceptions', e.days,
        'day_floor', c.day_floor
    )::text as policy
    where z.profile_id is not null or e.days is not null or c.day_floor is not null
) as r on true
left join lateral (
    select
        array_agg(y.reset_date) as balance_days,
        array_agg(coalesce(y.used_seconds, 0)) as used_seconds,
        array_agg(coalesce(y.is_unlimited_override, false)) as overrides,
        array_agg(coalesce(y.extended_minutes, 0)) as extended_minutes,
        array_agg(y.limit_minutes) as limit_minutes
    from viewing_time_balances as y
    where y.profile_id = p.id and y.reset_date >= $4::date
) as b on true
where u.id = $1::uuid
order by p.name collate "C", p.id
