-- Lists a profile's sessions of a range of its viewing days, with the part watched on each day.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 bounds timestamptz[]          when each day begins; the last one: when the last day ends
-- $4 max_sessions int
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: session_id uuid             null (like the rest) in the one row of an empty range
-- row: title_id uuid
-- row: title_name text
-- row: device_type text            null where the session has none
-- row: is_educational bool
-- row: started_at timestamptz
-- row: ended_at timestamptz        null: still open
-- row: total_seconds int           watched on this day
-- row: day int                     days after $3
-- row: is_truncated bool           the range has more than $4 sessions
--
-- No row: the account is unknown.
-- A session has a row for each day on which it was watched. `earlier_days` has the seconds of days
-- before that of the latest heartbeat, which has the rest. Without `earlier_days` all belongs to the
-- day on which the session started.
-- Sessions without `earlier_days` are found by ix_vs_profile_started, the few with it by
-- ix_vs_earlier_days, also those that started before the range. Each branch is scanned backwards and
-- stops at the limit.
select
    u.is_active,
    p.id is not null as is_owner,
    s.id as session_id,
    s.title_id,
    t.title as title_name,
    s.device_type,
    coalesce(s.is_educational, false) as is_educational,
    s.started_at,
    s.ended_at,
    coalesce(s.seconds, 0) as total_seconds,
    s.day,
    coalesce(s.is_truncated, false) as is_truncated
from users as u
left join profiles as p on p.id = $2::uuid and p.user_id = u.id
left join lateral (
    select
        v.id, v.title_id, v.device_type, v.is_educational, v.started_at, v.ended_at,
        v.is_truncated, d.day, d.seconds
    from (
        select
            f.id, f.title_id, f.device_type, f.is_educational, f.started_at,
            f.last_heartbeat_at, f.ended_at, f.total_seconds, f.earlier_days,
            row_number() over (order by f.started_at desc, f.id) as place,
            count(*) over () > $4::int as is_truncated
        from (
            (
                select
                    k.id, k.title_id, k.device_type, k.is_educational, k.started_at,
                    k.last_heartbeat_at, k.ended_at, k.total_seconds, k.earlier_days
                from viewing_sessions as k
                where k.profile_id = p.id
                    and u.is_active
                    and k.earlier_days is null
                    and k.started_at >= ($3::timestamptz[])[1]
                    and k.started_at < ($3::timestamptz[])[cardinality($3::timestamptz[])]
                order by k.started_at desc
                limit $4::int + 1
            )
            union all
            (
                select
                    k.id, k.title_id, k.device_type, k.is_educational, k.started_at,
                    k.last_heartbeat_at, k.ended_at, k.total_seconds, k.earlier_days
                from viewing_sessions as k
                where k.profile_id = p.id
                    and u.is_active
                    and k.earlier_days is not null
                    and k.started_at < ($3::timestamptz[])[cardinality($3::timestamptz[])]
                    and k.last_heartbeat_at >= ($3::timestamptz[])[1]
                order by k.started_at desc
                limit $4::int + 1
            )
            order by started_at desc, id
            limit $4::int + 1
        ) as f
    ) as v
    cross join lateral (
        select x.day, sum(x.seconds)::int as seconds
        from (
            select
                width_bucket(
                    case when v.earlier_days is null then v.started_at else v.last_heartbeat_at end,
                    $3::timestamptz[]
                ) - 1 as day,
                v.total_seconds - coalesce(sum((e.part ->> 1)::int), 0) as seconds
            from jsonb_array_elements(v.earlier_days) as e (part)
            union all
            select
                width_bucket((e.part ->> 0)::timestamptz, $3::timestamptz[]) - 1,
                (e.part ->> 1)::int
            from jsonb_array_elements(v.earlier_days) as e (part)
        ) as x
        group by x.day
    ) as d
    where v.place <= $4::int
        and d.day between 0 and cardinality($3::timestamptz[]) - 2
        and (d.seconds > 0 or v.earlier_days is null)
) as s on true
left join titles as t on t.id = s.title_id
where u.id = $1::uuid
order by s.day desc, s.started_at desc, s.id
