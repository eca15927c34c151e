-- Denies a child's pending request for more time.
--
-- $1 account_id uuid               the caller
-- $2 request_id uuid
-- $3 now timestamptz
--
-- row: is_active bool              the account is active
-- row: is_found bool               the account has such a request
-- row: is_denied bool              false: nothing was done, because the request was not pending
--
-- No row: the account is unknown.
-- Of two decisions at once, the second one waits for the row and finds that it is not pending any
-- more. A strict account needs no proof, because nothing gets more time.
-- Uses two primary keys.
with target as (
    select
        u.is_active,
        q.id
    from users as u
    left join viewing_requests as q on q.id = $2::uuid and q.account_id = u.id
    where u.id = $1::uuid
),
denied as (
    update viewing_requests as q
    set status = 'denied', decided_at = $3::timestamptz, decided_by_user_id = $1::uuid
    from target as t
    where t.is_active
        and q.id = t.id
        and q.status = 'pending'
        and q.expires_at > $3::timestamptz
    returning q.id, q.profile_id
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select
        $1::uuid,
        d.profile_id,
        'request.denied',
        $3::timestamptz,
        jsonb_build_object('request_id', d.id)
    from denied as d
)
select
    t.is_active,
    t.id is not null as is_found,
    d.id is not null as is_denied
from target as t
left join denied as d on true
