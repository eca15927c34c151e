-- Lists some of a profile's sessions, newest first, for a copy of a parent's own.
--
-- $1 profile_id uuid
-- $2 before_start timestamptz      with the next: the last session listed so far
-- $3 before_id uuid
-- $4 most int                      at most so many sessions
--
-- row: session_id uuid
-- row: title_id uuid
-- row: title_name text
-- row: device_id text
-- row: device_type text            null where the session has none
-- row: is_educational bool
-- row: started_at timestamptz
-- row: last_heartbeat_at timestamptz
-- row: ended_at timestamptz        null: still open
-- row: total_seconds int
--
-- A page at a time: asked for all at once they would be gathered, and sorted on disk. Each page
-- begins in ix_vs_profile_started where the one before it ended.
select
    s.id as session_id,
    s.title_id,
    t.title as title_name,
    s.device_id,
    s.device_type,
    s.is_educational,
    s.started_at,
    s.last_heartbeat_at,
    s.ended_at,
    s.total_seconds
from (
    select
        v.id, v.title_id, v.device_id, v.device_type, v.is_educational, v.started_at,
        v.last_heartbeat_at, v.ended_at, v.total_seconds
    from viewing_sessions as v
    where v.profile_id = $1::uuid
        and (v.started_at, v.id) < ($2::timestamptz, $3::uuid)
    order by v.started_at desc, v.id desc
    limit $4::int
) as s
left join titles as t on t.id = s.title_id
order by s.started_at desc, s.id desc
