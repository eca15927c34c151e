-- Stores a child's request for more time, or returns the one that is pending.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 request_id uuid               of a new request
-- $4 minutes int                   null: the rest of the day
-- $5 message text                  null: none
-- $6 device_id text                null: not known
-- $7 day date                      the viewing day
-- $8 ends timestamptz              its end
-- $9 now timestamptz
-- $10 max_requests int             of a viewing day
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: is_child bool               false: nothing was done
-- row: request_id uuid             null: nothing was done
-- row: expires_at timestamptz      of that request
-- row: is_new bool                 the request did not exist before
--
-- No row: the account is unknown.
-- A pending request of an earlier day expires first, so that it does not count as the pending one. Of
-- two new requests at once, the index uq_vr_pending makes the second one wait and return the first.
-- Requests are counted as of the start of the statement: a request that is stored and decided while
-- another one waits is not counted by that one.
-- Uses uq_vr_pending, ix_vr_profile_day and primary keys.
with owner as (
    select
        u.is_active,
        p.id as profile_id,
        coalesce(p.is_kids, false) as is_child
    from users as u
    left join profiles as p on p.id = $2::uuid and p.user_id = u.id
    where u.id = $1::uuid
),
pending as materialized (
    select q.id, q.expires_at
    from viewing_requests as q
    join owner as o on o.profile_id = q.profile_id
    where o.is_active and o.is_child and q.status = 'pending' and q.expires_at > $9::timestamptz
),
ended as (
    update viewing_requests as q
    set status = 'expired'
    from owner as o
    where o.is_active
        and o.is_child
        and q.profile_id = o.profile_id
        and q.status = 'pending'
        and q.expires_at <= $9::timestamptz
    returning q.id, q.profile_id
),
created as (
    insert into viewing_requests as q (
        id, account_id, profile_id, minutes, message, device_id, status, reset_date, requested_at,
        expires_at
    )
    select
        $3::uuid,
        $1::uuid,
        o.profile_id,
        $4::int,
        $5::text,
        $6::text,
        'pending',
        $7::date,
        $9::timestamptz,
        $8::timestamptz
    from owner as o
    where o.is_active
        and o.is_child
        and not exists (select from pending)
        and (
            select count(*)
            from viewing_requests as x
            where x.profile_id = o.profile_id and x.reset_date = $7::date
        ) < $10::int
        and (select count(*) from ended) >= 0
    on conflict (profile_id) where status = 'pending' do update set status = q.status
    returning q.id, q.profile_id, q.expires_at
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select $1::uuid, v.profile_id, v.type, $9::timestamptz, v.data
    from (
        select
            e.profile_id,
            'request.expired' as type,
            jsonb_build_object('request_id', e.id) as data
        from ended as e
        union all
        select
            c.profile_id,
            'request.created' as type,
            jsonb_build_object(
                'request_id', c.id,
                'minutes', $4::int,
                'expires_at',
                to_char(c.expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            ) as data
        from created as c
        where c.id = $3::uuid
    ) as v
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    o.is_child,
    coalesce(p.id, c.id) as request_id,
    coalesce(p.expires_at, c.expires_at) as expires_at,
    coalesce(c.id = $3::uuid, false) as is_new
from owner as o
left join pending as p on true
left join created as c on true
