-- Finds the account of a profile, to know whether the profile is in this cell.
--
-- $1 profile_id uuid
--
-- row: account_id uuid
select p.user_id as account_id
from profiles as p
where p.id = $1::uuid
