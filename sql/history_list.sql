-- Lists a profile's sessions of a range of UTC days, newest first.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 from_date date                first UTC day of `started_at`
-- $4 to_date date                  last one, inclusive
-- $5 max_sessions int
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
-- row: total_seconds int
--
-- No row: the account is unknown.
-- Scans ix_vs_profile_started backwards from the end of the range and stops at the limit. The bounds
-- are plain comparisons of `started_at`, so rows outside the range are not read, and only the
-- returned rows are sorted. Titles are joined by primary key, for their name. The day after $4 is
-- computed here, because Python has no day after the last day of its calendar.
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
    coalesce(s.total_seconds, 0) as total_seconds
from users as u
left join profiles as p on p.id = $2::uuid and p.user_id = u.id
left join lateral (
    select
        v.id, v.title_id, v.device_type, v.is_educational, v.started_at, v.ended_at,
        v.total_seconds
    from viewing_sessions as v
    where v.profile_id = p.id
        and u.is_active
        and v.started_at >= $3::date::timestamp at time zone 'UTC'
        and v.started_at < ($4::date + 1)::timestamp at time zone 'UTC'
    order by v.started_at desc
    limit $5::int
) as s on true
left join titles as t on t.id = s.title_id
where u.id = $1::uuid
order by s.started_at desc, s.id
