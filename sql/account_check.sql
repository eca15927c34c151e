-- Checks the rights of an account before a response that needs no other statement.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid               in the path, if any
--
-- row: is_active bool              the account may use the service
-- row: is_owner bool               the profile is the account's, or null
-- row: is_admin bool
--
-- No row: the account is unknown. Reads one row by each of two primary keys.
select
    u.is_active,
    $2::uuid is null or exists (
        select from profiles as p where p.id = $2::uuid and p.user_id = u.id
    ) as is_owner,
    u.is_admin
from users as u
where u.id = $1::uuid
