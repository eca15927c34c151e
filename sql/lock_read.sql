-- Reads the lock of a profile.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 now timestamptz
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: locked_until timestamptz    null: not locked now
--
-- No row: the account is unknown.
-- Each join reads one row by a primary key.
select
    u.is_active,
    p.id is not null as is_owner,
    l.locked_until
from users as u
left join profiles as p on p.id = $2::uuid and p.user_id = u.id
left join viewing_locks as l on l.profile_id = p.id and l.locked_until > $3::timestamptz
where u.id = $1::uuid
