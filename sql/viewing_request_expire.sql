-- Ends pending requests for more time whose viewing day is over.
--
-- $1 now timestamptz
-- $2 max_requests int
--
-- row: requests int                number ended
--
-- Always one row. Several instances run it: each skips the rows that another one has locked, so a
-- request ends once, and a parent who decides at the same time is not delayed.
-- Uses ix_vr_expires and the primary key.
with due as (
    select q.id
    from viewing_requests as q
    where q.status = 'pending' and q.expires_at <= $1::timestamptz
    order by q.expires_at
    limit $2::int
    for no key update skip locked
),
ended as (
    update viewing_requests as q
    set status = 'expired'
    from due as d
    where q.id = d.id
    returning q.id, q.account_id, q.profile_id
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select
        e.account_id,
        e.profile_id,
        'request.expired',
        $1::timestamptz,
        jsonb_build_object('request_id', e.id)
    from ended as e
)
select count(*)::int as requests
from ended as e
