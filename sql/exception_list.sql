-- Lists the exceptions of a profile in a range of viewing days.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 first_day date                inclusive
-- $4 last_day date                 inclusive
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: day date                    null (like the rest) without an exception
-- row: changes_limit bool
-- row: limit_minutes int
-- row: lifts_downtime bool
-- row: updated_at timestamptz
--
-- No row: the account is unknown. One row with nulls: there is no exception.
-- The primary key gives the days of a profile in order.
select
    u.is_active,
    p.id is not null as is_owner,
    e.day,
    e.changes_limit,
    e.limit_minutes,
    e.lifts_downtime,
    e.updated_at
from users as u
left join profiles as p on p.id = $2::uuid and p.user_id = u.id
left join viewing_exceptions as e
    on e.profile_id = p.id and e.day between $3::date and $4::date
where u.id = $1::uuid
order by e.day
