-- Deletes everything about a child except the profile itself, and counts the rows.
--
-- $1 caller_id uuid                null for an operator
-- $2 is_operator bool              true: an operator at the command line, who needs no account
-- $3 profile_id uuid
-- $4 origin text                   id of the change, for the notification
--
-- row: is_active bool              the caller's account is active
-- row: is_admin bool               the caller is an administrator
-- row: account_id uuid             owner of the profile; null: it does not exist, or has left meanwhile
-- row: sessions int                number deleted, as in the next three columns
-- row: balances int
-- row: grants int
-- row: configurations int          the configuration, the schedule, the lock, and each exception
-- row: notified text               empty if a notification was sent, else null
-- row: listeners text[]            instances that must acknowledge the notification
--
-- Always one row; for an unknown caller `is_active` is false. One transaction.
-- Rows are deleted in the order in which all other statements lock them, so none of them can deadlock
-- with this one: sessions, then the clock, schedule, exceptions and lock, then requests, then balances
-- in the order of their days, then the configuration, then grants and events. A heartbeat locks its
-- session, its clock and its balance, and writes its event. A change of the schedule locks its row and
-- then balances, a change of the configuration balances, then its row, then grants. A grant writes the
-- request that it approves, the balance, and then itself. Deliveries lock events by their positions.
-- `held` waits for the deletion of requests by a condition, which is evaluated before rows are read. A
-- join would skip it for a child without rows on the other side.
-- A session that starts meanwhile is not seen, and stays.
-- Stored responses to requests with an Idempotency-Key can be about the child, so all of its account
-- are deleted. Neither they nor the clock, requests and events are counted.
-- Writes viewing_data.erased if it deletes a row about the child other than an event. Such an event of
-- an earlier erasure stays, because it says nothing else and the webhook may not have received it.
-- Uses ix_vs_profile_started, uq_vtb_profile_date, ix_tg_profile, uq_vtc_profile, and the primary
-- keys of the other tables.
-- Parts that lock rows take values from others by subqueries, because Citus reads a part wrongly that
-- locks rows and joins.
with caller as materialized (
    select
        $2::bool or coalesce(bool_and(u.is_active), false) as is_active,
        $2::bool or coalesce(bool_and(u.is_admin), false) as is_admin
    from users as u
    where u.id = $1::uuid
),
target as materialized (
    select p.id, p.user_id
    from profiles as p
    cross join caller as c
    where p.id = $3::uuid and c.is_active and c.is_admin
),
requests as (
    delete from viewing_requests as q
    using target as t
    where q.profile_id = t.id
    returning q.id
),
sessions as (
    delete from viewing_sessions as s
    using target as t
    where s.profile_id = t.id
    returning s.id
),
removed as materialized (
    select count(*)::int as sessions
    from sessions
),
clocks as (
    delete from viewing_clocks as w
    using target as t
    cross join removed as r
    where w.profile_id = t.id
    returning w.profile_id
),
schedules as (
    delete from viewing_schedules as h
    using target as t
    cross join removed as r
    where h.profile_id = t.id
    returning h.profile_id
),
exceptions as (
    delete from viewing_exceptions as e
    using target as t
    cross join removed as r
    where e.profile_id = t.id
    returning e.profile_id
),
locks as (
    delete from viewing_locks as l
    using target as t
    cross join removed as r
    where l.profile_id = t.id
    returning l.profile_id
),
ruled as materialized (
    select
        (select count(*) from clocks) as clocks,
        (
            (select count(*) from schedules)
            + (select count(*) from exceptions)
            + (select count(*) from locks)
        ) as rules
),
held as materialized (
    select b.id
    from viewing_time_balances as b
    where b.profile_id = (select t.id from target as t)
        and (select o.clocks from ruled as o) >= 0
        and (select count(*) from requests) >= 0
    order by b.reset_date
    for update
),
balances as (
    delete from viewing_time_balances as b
    using target as t
    where b.profile_id = t.id and (select count(*) from held) >= 0
    returning b.id
),
emptied as materialized (
    select count(*)::int as balances
    from balances
),
configurations as (
    delete from viewing_time_configs as k
    using target as t
    cross join emptied as e
    where k.profile_id = t.id
    returning k.profile_id
),
reset as materialized (
    select count(*) as configurations
    from configurations
),
grants as (
    delete from time_grants as g
    using target as t
    cross join reset as f
    where g.profile_id = t.id
    returning g.id
),
told as materialized (
    select v.id
    from viewing_events as v
    where v.profile_id = (select t.id from target as t)
        and (select f.configurations from reset as f) >= 0
        and v.type <> 'viewing_data.erased'
    order by v.position
    for update
),
events as (
    delete from viewing_events as v
    where v.id in (select d.id from told as d)
),
responses as (
    delete from viewing_time_request_keys as a
    using target as t
    where a.account_id = t.user_id
),
present as materialized (
    select p.id
    from profiles as p
    where p.id = (select t.id from target as t cross join reset as f)
    for key share
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select t.user_id, t.id, 'viewing_data.erased', now(), '{}'
    from target as t
    cross join removed as r
    cross join ruled as o
    cross join emptied as e
    cross join reset as f
    where r.sessions + o.clocks + o.rules + e.balances + f.configurations > 0
        or exists (select from grants)
        or exists (select from requests)
)
select
    c.is_active,
    c.is_admin,
    t.user_id as account_id,
    r.sessions,
    e.balances,
    (select count(*)::int from grants) as grants,
    (o.rules + f.configurations)::int as configurations,
    case
        when t.id is not null
        then pg_notify(
            'viewing_config_changed', concat_ws(' ', $4::text, t.user_id::text, t.id::text)
        )::text
    end as notified,
    case
        when t.id is not null
        then (
            select coalesce(array_agg(distinct right(a.application_name, 32)), '{}')
            from pg_stat_activity as a
            where a.datname = current_database()
                and a.application_name like 'viewing-time listener %'
        )
        else '{}'
    end as listeners
from caller as c
cross join removed as r
cross join ruled as o
cross join emptied as e
cross join reset as f
left join target as t on exists (select from present)
