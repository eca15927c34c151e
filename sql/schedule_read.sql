-- Reads the schedule of a profile.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: daily_limits jsonb          minutes by day; null (like the rest) without a schedule
-- row: downtime jsonb              windows
-- row: weekly_limit_minutes int
-- row: week_starts_on text
-- row: rollover_max_minutes int
-- row: finish_minutes int
-- row: updated_at timestamptz
--
-- No row: the account is unknown.
-- Each join reads one row by a primary key. A profile without a schedule has no row in
-- `viewing_schedules`, and none is stored here: the defaults are those of the handler.
select
    u.is_active,
    p.id is not null as is_owner,
    s.daily_limits,
    s.downtime,
    s.weekly_limit_minutes,
    s.week_starts_on,
    s.rollover_max_minutes,
    s.finish_minutes,
    s.updated_at
from users as u
left join profiles as p on p.id = $2::uuid and p.user_id = u.id
left join viewing_schedules as s on s.profile_id = p.id
where u.id = $1::uuid
