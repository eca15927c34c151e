-- Ends a session, or moves the end of one that has ended.
--
-- $1 account_id uuid               of the token
-- $2 session_id uuid
-- $3 now timestamptz
--
-- row: is_active bool              the account is active
-- row: is_found bool               the session exists
-- row: is_owner bool               its profile is the account's
-- row: total_seconds int           null if nothing was done
-- row: ended_at timestamptz        null if nothing was done
--
-- No row: the account is unknown.
-- A session never ends before its start, even if the clock that started it was ahead.
-- The update locks the row and returns the row it wrote, so a concurrent beat is either in this
-- total or in the next one.
with owner as (
    select
        u.is_active,
        s.id as session_id,
        p.id as profile_id
    from users as u
    left join viewing_sessions as s on s.id = $2::uuid
    left join profiles as p on p.id = s.profile_id and p.user_id = u.id
    where u.id = $1::uuid
),
ended as (
    update viewing_sessions as s
    set ended_at = greatest($3::timestamptz, s.started_at)
    from owner as o
    where o.is_active and s.id = o.session_id and s.profile_id = o.profile_id
    returning coalesce(s.total_seconds, 0) as total_seconds, s.ended_at
)
select
    o.is_active,
    o.session_id is not null as is_found,
    o.profile_id is not null as is_owner,
    e.total_seconds,
    e.ended_at
from owner as o
left join ended as e on true
