-- Lists every grant to a profile for export, newest first.
--
-- $1 profile_id uuid
--
-- row: granted_at timestamptz
-- row: granted_minutes int         null: unlimited for the day
-- row: is_remote bool              not granted on the child's device
-- row: viewing_day date            null (like the next two): an earlier version made the grant
-- row: mode text                   credit, extend or unlimited
-- row: effect_seconds int          seconds gained; null too if unlimited
-- row: undone_at timestamptz       null: the grant stands
-- row: request_id uuid             the request that the grant approves; null: none
--
-- Uses ix_tg_profile; a profile has few grants, so they are sorted in memory.
select
    g.granted_at,
    g.granted_minutes,
    g.is_remote,
    g.reset_date as viewing_day,
    g.mode,
    g.effect_seconds,
    g.undone_at,
    g.request_id
from time_grants as g
where g.profile_id = $1::uuid
order by g.granted_at desc
