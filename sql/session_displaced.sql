-- Reads which device has ended a session of another device, and when.
--
-- $1 profile_id uuid
-- $2 session_id uuid               for which heartbeat_record has returned refusal 7
--
-- row: device_type text            of the other device; null: unknown
-- row: ended_at timestamptz
--
-- No row: the session, or the one that ended it, has been deleted since.
-- The conditions are those of heartbeat_record, which returns no details because few beats need them.
-- The session that started last is the one that ended it. The two parts use the index by start and the
-- index of open sessions.
select
    d.device_type,
    s.ended_at
from viewing_sessions as s
cross join lateral (
    select o.device_type
    from (
        select x.device_type, x.started_at
        from viewing_sessions as x
        where x.profile_id = s.profile_id
            and x.started_at = s.ended_at
            and x.device_id <> s.device_id
        union all
        select x.device_type, x.started_at
        from viewing_sessions as x
        where x.profile_id = s.profile_id
            and x.ended_at is null
            and x.started_at < s.started_at
            and x.device_id <> s.device_id
            and s.ended_at = s.started_at
    ) as o
    order by o.started_at desc
    limit 1
) as d
where s.id = $2::uuid and s.profile_id = $1::uuid
