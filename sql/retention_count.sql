-- Counts expired sessions, balances, exceptions, locks and requests, for one range of profiles.
--
-- $1 from_profile uuid             first profile of the range
-- $2 profiles int                  number of profiles in the range, in the order of their ids
-- $3 sessions_before timestamptz   sessions older than this are expired
-- $4 balances_before date          viewing days before this one are expired, also of exceptions and
--                                  requests
--
-- row: sessions int
-- row: balances int
-- row: exceptions int
-- row: locks int
-- row: requests int
-- row: next_id uuid                start of the next range; null after the last profile
--
-- Applies the conditions of retention_sessions, retention_balances, retention_exceptions and
-- retention_requests.
with profiles_in_range as materialized (
    select p.id
    from profiles as p
    where p.id >= $1::uuid
    order by p.id
    limit $2::int
)
select
    coalesce(sum(s.expired), 0)::int as sessions,
    coalesce(sum(b.expired), 0)::int as balances,
    coalesce(sum(e.expired), 0)::int as exceptions,
    coalesce(sum(l.expired), 0)::int as locks,
    coalesce(sum(q.expired), 0)::int as requests,
    (
        select p.id
        from profiles as p
        where p.id > (select r.id from profiles_in_range as r order by r.id desc limit 1)
        order by p.id
        limit 1
    ) as next_id
from profiles_in_range as r
cross join lateral (
    select count(*) as expired
    from viewing_sessions as v
    where v.profile_id = r.id
        and v.started_at < $3::timestamptz
        and v.last_heartbeat_at < $3::timestamptz
) as s
cross join lateral (
    select count(*) as expired
    from viewing_time_balances as v
    where v.profile_id = r.id and v.reset_date < $4::date
) as b
cross join lateral (
    select count(*) as expired
    from viewing_exceptions as v
    where v.profile_id = r.id and v.day < $4::date
) as e
cross join lateral (
    select count(*) as expired
    from viewing_locks as v
    where v.profile_id = r.id and v.locked_until < $4::date::timestamp at time zone 'UTC'
) as l
cross join lateral (
    select count(*) as expired
    from viewing_requests as v
    where v.profile_id = r.id and v.reset_date < $4::date and v.status <> 'pending'
) as q
