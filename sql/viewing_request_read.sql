-- Reads a child's request for more time.
--
-- $1 account_id uuid               the caller
-- $2 request_id uuid
-- $3 now timestamptz
--
-- row: is_active bool              the account is active
-- row: request_id uuid             null (like the rest): the account has no such request
-- row: profile_id uuid
-- row: minutes int                 null: the rest of the day
-- row: message text                null: none
-- row: device_id text              null: not known
-- row: status text                 pending, approved, denied or expired
-- row: reset_date date             the viewing day
-- row: requested_at timestamptz
-- row: expires_at timestamptz
-- row: decided_at timestamptz      null: not approved or denied
-- row: decided_by_user_id uuid     null: not approved or denied
-- row: grant_id uuid               null: not approved
--
-- No row: the account is unknown.
-- A pending request has expired at its end, also before viewing_request_expire has stored that.
-- Uses two primary keys.
select
    u.is_active,
    q.id as request_id,
    q.profile_id,
    q.minutes,
    q.message,
    q.device_id,
    case
        when q.status = 'pending' and q.expires_at <= $3::timestamptz then 'expired'
        else q.status
    end as status,
    q.reset_date,
    q.requested_at,
    q.expires_at,
    q.decided_at,
    q.decided_by_user_id,
    q.grant_id
from users as u
left join viewing_requests as q on q.id = $2::uuid and q.account_id = u.id and u.is_active
where u.id = $1::uuid
