-- Deletes an account with its profiles, their viewing and its grants, or schedules the deletion.
--
-- $1 caller_id uuid                null for an operator
-- $2 is_operator bool              true: an operator at the command line, who needs no account
-- $3 account_id uuid
-- $4 max_rows int                  if any table has this many rows, the deletion is scheduled
--
-- row: is_active bool              the caller's account is active
-- row: is_admin bool               the caller is an administrator
-- row: is_found bool               the account existed; false if it has left while this waited for it
-- row: is_deleted bool             false for an account that exists: its deletion is pending
-- row: notifications int8          number sent, one for each profile
--
-- Always one row; for an unknown caller `is_active` is false.
-- An immediate deletion is one transaction. A scheduled one (see deletion_batch) first deactivates
-- the account.
-- Takes locks in the same order as heartbeats, profile by profile: the locks for starting sessions (the
-- advisory ones of migration 0004, and in a cell of Citus the profiles), open sessions, events by their
-- positions as deliveries do, the account, its profiles. The deadlocks left are with a heartbeat of an
-- ended session and with a parent who changes the rules of a child or grants time; `lock_timeout` then
-- ends one of the two.
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
    select u.id
    from users as u
    cross join caller as c
    where u.id = $3::uuid and c.is_active and c.is_admin
),
its_profiles as materialized (
    select p.id
    from profiles as p
    join target as t on t.id = p.user_id
    order by p.id
),
size as materialized (
    select greatest(
        (select count(*) from its_profiles),
        (
            select count(*)
            from (
                select
                from its_profiles as t
                cross join lateral (
                    select from viewing_sessions as s where s.profile_id = t.id limit $4::int
                ) as s
                limit $4::int
            ) as x
        ),
        (
            select count(*)
            from (
                select
                from its_profiles as t
                cross join lateral (
                    select from viewing_time_balances as b where b.profile_id = t.id limit $4::int
                ) as b
                limit $4::int
            ) as x
        ),
        (
            select count(*)
            from (
                select
                from its_profiles as t
                cross join lateral (
                    select from time_grants as g where g.profile_id = t.id limit $4::int
                ) as g
                limit $4::int
            ) as x
        ),
        (
            select count(*)
            from (
                select from time_grants as g where g.granted_by_user_id = $3::uuid limit $4::int
            ) as x
        )
    ) >= $4::int as is_large
),
deactivated as (
    update users as u
    set is_active = false
    from target as t
    cross join size as z
    where u.id = t.id and z.is_large
    returning u.id
),
pending as (
    insert into pending_deletions (kind, id)
    select 'account', d.id
    from deactivated as d
    on conflict (kind, id) do nothing
),
start_locks as materialized (
    select pg_advisory_xact_lock(uuid_hash_extended(t.id, 0))::text as taken
    from its_profiles as t
    cross join size as z
    where not z.is_large
),
profile_locks as materialized (
    select p.id
    from profiles as p
    where p.id = any(array(select t.id from its_profiles as t cross join size as z where not z.is_large))
        and current_setting('citus.version', true) is not null
        and (select count(*) from start_locks) >= 0
    order by p.id
    for no key update
),
held as materialized (
    select s.id
    from viewing_sessions as s
    where s.profile_id = any(array(select t.id from its_profiles as t))
        and s.ended_at is null
        and not (select z.is_large from size as z)
        and (select count(*) from start_locks) > 0
        and (select count(*) from profile_locks) >= 0
    order by s.profile_id
    for no key update
),
told as materialized (
    select v.id
    from viewing_events as v
    where v.account_id = $3::uuid
        and exists (select from target)
        and not (select z.is_large from size as z)
        and (select count(*) from held) >= 0
    order by v.position
    for update
),
deleted as (
    delete from users as u
    using target as t
    cross join size as z
    where u.id = t.id
        and not z.is_large
        and (select count(*) from told) >= 0
    returning u.id
),
done as (
    delete from pending_deletions as d
    using caller as c
    cross join size as z
    where d.kind = 'account'
        and d.id = $3::uuid
        and c.is_active
        and c.is_admin
        and not z.is_large
        and (select count(*) from deleted) >= 0
)
select
    c.is_active,
    c.is_admin,
    exists (select from deactivated) or exists (select from deleted) as is_found,
    exists (select from deleted) as is_deleted,
    (
        select count(pg_notify('viewing_config_changed', concat_ws(' ', 'deleted', $3::uuid, t.id)))
        from its_profiles as t
    ) as notifications
from caller as c
