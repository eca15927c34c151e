-- Lists every request for more time of a profile for export, newest first.
--
-- $1 profile_id uuid
--
-- row: request_id uuid             the grant that approves it has the same
-- row: viewing_day date
-- row: requested_at timestamptz
-- row: minutes int                 null: the rest of the day
-- row: message text                null: none
-- row: device_id text              null: not known
-- row: status text                 pending, approved, denied or expired
-- row: expires_at timestamptz
-- row: decided_at timestamptz      null: not approved or denied
--
-- Uses ix_vr_profile_day; a profile has few requests, so they are sorted in memory.
select
    q.id as request_id,
    q.reset_date as viewing_day,
    q.requested_at,
    q.minutes,
    q.message,
    q.device_id,
    q.status,
    q.expires_at,
    q.decided_at
from viewing_requests as q
where q.profile_id = $1::uuid
order by q.requested_at desc
