-- Lists every grant to a profile, newest first, for a copy of a parent's own.
--
-- $1 profile_id uuid
--
-- row: granted_at timestamptz
-- row: granted_minutes int         null: unlimited for the day
-- row: is_remote bool              granted away from the child's device
--
-- Rides ix_tg_profile; a child's grants are few, and sorted in memory.
select
    g.granted_at,
    g.granted_minutes,
    g.is_remote
from time_grants as g
where g.profile_id = $1::uuid
order by g.granted_at desc
