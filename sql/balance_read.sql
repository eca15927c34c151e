-- Reads the balance of a profile for one viewing day.
--
-- $1 account_id uuid               of the token
-- $2 profile_id uuid
-- $3 day date                      the viewing day
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: is_child bool
-- row: used_seconds int
-- row: educational_seconds int
-- row: is_unlimited_override bool
--
-- No row: the account is unknown. Without a balance the used seconds are 0.
-- Indexes: two primary keys and `uq_vtb_profile_date`, one row of each.
select
    u.is_active,
    p.id is not null as is_owner,
    coalesce(p.is_kids, false) as is_child,
    coalesce(b.used_seconds, 0) as used_seconds,
    coalesce(b.educational_seconds, 0) as educational_seconds,
    coalesce(b.is_unlimited_override, false) as is_unlimited_override
from users as u
left join profiles as p on p.id = $2::uuid and p.user_id = u.id
left join viewing_time_balances as b on b.profile_id = p.id and b.reset_date = $3::date
where u.id = $1::uuid
