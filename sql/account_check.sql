-- Tells what an account may see of an answer that needs no other statement.
--
-- $1 account_id uuid               who asks
-- $2 profile_id uuid               named in the path; null: none
--
-- row: is_active bool              the account may ask
-- row: is_owner bool               the profile is the account's (or none was named)
-- row: is_admin bool
--
-- No row: the account is unknown. Two primary keys, one row of each.
select
    u.is_active,
    $2::uuid is null or exists (
        select from profiles as p where p.id = $2::uuid and p.user_id = u.id
    ) as is_owner,
    u.is_admin
from users as u
where u.id = $1::uuid
