-- Deletes a profile with its rules, viewing and grants, or schedules the deletion.
--
-- $1 caller_id uuid                null for an operator
-- $2 is_operator bool              true: an operator at the command line, who needs no account
-- $3 profile_id uuid
-- $4 max_rows int                  if any table has this many rows, the deletion is scheduled
--
-- row: is_active bool              the caller's account is active
-- row: is_admin bool               the caller is an administrator
-- row: is_found bool               the profile existed; false if it has left while this waited for it
-- row: is_deleted bool             false for a profile that exists: its deletion is pending
-- row: account_id uuid             its owner; null if it was not deleted
-- row: notified text               empty if a notification was sent, else null
--
-- Always one row; for an unknown caller `is_active` is false.
-- An immediate deletion is one transaction. Until a scheduled one (see deletion_batch) is done, the
-- profile can be used.
-- Takes locks in the same order as heartbeats: the lock for starting a session, the open session, the
-- profile. The first is the advisory lock of migration 0004, and in a cell of Citus the profile. Before
-- the profile is deleted its events are locked by their positions, as deliveries do. The deadlocks left
-- are with a heartbeat of an ended session and with a parent who changes the rules of the child or
-- grants time; `lock_timeout` then ends one of the two.
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
    select p.id
    from profiles as p
    cross join caller as c
    where p.id = $3::uuid and c.is_active and c.is_admin
),
size as materialized (
    select greatest(
        (
            select count(*)
            from (select from viewing_sessions as s where s.profile_id = $3::uuid limit $4::int) as x
        ),
        (
            select count(*)
            from (
                select from viewing_time_balances as b where b.profile_id = $3::uuid limit $4::int
            ) as x
        ),
        (
            select count(*)
            from (select from time_grants as g where g.profile_id = $3::uuid limit $4::int) as x
        )
    ) >= $4::int as is_large
    from target as t
),
kept as materialized (
    select p.id
    from profiles as p
    where p.id = (select t.id from target as t cross join size as z where z.is_large)
    for key share
),
pending as (
    insert into pending_deletions (kind, id)
    select 'profile', k.id
    from kept as k
    on conflict (kind, id) do nothing
),
start_lock as materialized (
    select pg_advisory_xact_lock(uuid_hash_extended(t.id, 0))::text as taken
    from target as t
    cross join size as z
    where not z.is_large
),
profile_lock as materialized (
    select p.id
    from profiles as p
    where p.id = $3::uuid
        and current_setting('citus.version', true) is not null
        and (select count(*) from start_lock) > 0
    for no key update
),
held as materialized (
    select s.id
    from viewing_sessions as s
    where s.profile_id = $3::uuid
        and s.ended_at is null
        and (select count(*) from start_lock) > 0
        and (select count(*) from profile_lock) >= 0
    for no key update
),
told as materialized (
    select v.id
    from viewing_events as v
    where v.profile_id = $3::uuid
        and (select count(*) from start_lock) > 0
        and (select count(*) from held) >= 0
    order by v.position
    for update
),
deleted as (
    delete from profiles as p
    using target as t
    cross join size as z
    where p.id = t.id
        and not z.is_large
        and (select count(*) from told) >= 0
    returning p.id, p.user_id
),
announced as materialized (
    select
        pg_notify(
            'viewing_config_changed', concat_ws(' ', 'deleted', d.user_id::text, d.id::text)
        )::text as notified
    from deleted as d
),
done as (
    delete from pending_deletions as d
    using caller as c
    where d.kind = 'profile'
        and d.id = $3::uuid
        and c.is_active
        and c.is_admin
        and not exists (select from size as z where z.is_large)
        and (select count(*) from deleted) >= 0
)
select
    c.is_active,
    c.is_admin,
    exists (select from kept) or exists (select from deleted) as is_found,
    exists (select from deleted) as is_deleted,
    d.user_id as account_id,
    a.notified
from caller as c
left join deleted as d on true
left join announced as a on true
