-- Lists the requests for more time of all children of an account, newest first.
--
-- $1 account_id uuid               the caller
-- $2 status text                   null: any
-- $3 now timestamptz
-- $4 max_requests int
--
-- row: is_active bool              the account is active
-- row: request_id uuid             null (like the rest) in the one row of an account without requests
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
-- Uses ix_vr_account. A status is a filter on it: an account has few requests.
select
    u.is_active,
    r.id as request_id,
    r.profile_id,
    r.minutes,
    r.message,
    r.device_id,
    r.status,
    r.reset_date,
    r.requested_at,
    r.expires_at,
    r.decided_at,
    r.decided_by_user_id,
    r.grant_id
from users as u
left join lateral (
    select
        q.id, q.profile_id, q.minutes, q.message, q.device_id, s.status, q.reset_date,
        q.requested_at, q.expires_at, q.decided_at, q.decided_by_user_id, q.grant_id
    from viewing_requests as q
    cross join lateral (
        select case
            when q.status = 'pending' and q.expires_at <= $3::timestamptz then 'expired'
            else q.status
        end as status
    ) as s
    where q.account_id = u.id and u.is_active and ($2::text is null or s.status = $2::text)
    order by q.requested_at desc, q.id desc
    limit $4::int
) as r on true
where u.id = $1::uuid
order by r.requested_at desc, r.id desc
