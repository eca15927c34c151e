-- Lists every grant to a profile for export, newest first.
--
-- $1 profile_id uuid
--
-- row: granted_at timestamptz
-- row: granted_minutes int         null: unlimited for the day
-- row: is_remote bool              not granted on the child's device
--
-- Uses ix_tg_profile; a profile has few grants, so they are sorted in memory.
select
    g.granted_at,
    g.granted_minutes,
    g.is_remote
from time_grants as g
where g.profile_id = $1::uuid
order by g.granted_at desc
