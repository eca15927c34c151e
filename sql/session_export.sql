-- Lists one page of the sessions of a profile for export, newest first.
--
-- $1 profile_id uuid
-- $2 before_start timestamptz      start of the last session of the page before
-- $3 before_id uuid                and its id
-- $4 max_rows int                  size of the page
--
-- row: session_id uuid
-- row: title_id uuid
-- row: title_name text
-- row: device_id text
-- row: device_type text            null if the session has none
-- row: is_educational bool
-- row: started_at timestamptz
-- row: last_heartbeat_at timestamptz
-- row: ended_at timestamptz        null while it is open
-- row: total_seconds int
-- row: earlier_days jsonb          {"2026-11-26T05:59:30+00:00": 1800}: seconds of total_seconds on each
--                                  viewing day before the last one, by the latest heartbeat of that
--                                  day; null: all on one day
--
-- Each page starts in ix_vs_profile_started where the page before it ended; reading all sessions at
-- once would sort them on disk.
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
    s.total_seconds,
    (
        select jsonb_object_agg(e.part ->> 0, e.part -> 1)
        from jsonb_array_elements(s.earlier_days) as e (part)
    ) as earlier_days
from (
    select
        v.id, v.title_id, v.device_id, v.device_type, v.is_educational, v.started_at,
        v.last_heartbeat_at, v.ended_at, v.total_seconds, v.earlier_days
    from viewing_sessions as v
    where v.profile_id = $1::uuid
        and (v.started_at, v.id) < ($2::timestamptz, $3::uuid)
    order by v.started_at desc, v.id desc
    limit $4::int
) as s
left join titles as t on t.id = s.title_id
order by s.started_at desc, s.id desc
