-- Finds the profile that is to be exported.
--
-- $1 profile_id uuid
--
-- row: profile_name text
--
-- No row: there is no such profile.
select p.name as profile_name
from profiles as p
where p.id = $1::uuid
