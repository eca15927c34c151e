-- Returns the name of the profile to export.
--
-- $1 profile_id uuid
--
-- row: profile_name text
--
-- No row: the profile does not exist.
select p.name as profile_name
from profiles as p
where p.id = $1::uuid
