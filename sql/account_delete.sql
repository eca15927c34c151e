-- Deletes an account with its profiles, their viewing and the grants, or has that done later.
--
-- $1 caller_id uuid                who asks; null where the next is true
-- $2 is_operator bool              asked by somebody who has the database itself
-- $3 account_id uuid
-- $4 most int                      with so many rows of a table or more it is done later
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: is_found bool               false: there is no such account
-- row: is_deleted bool             false, where there is one: its deletion is pending
-- row: told int8                   notifications sent, one for each profile
--
-- Always one row; an unknown caller is not active. All or nothing where it is done at once. Where it
-- is done later (deletion_batch), the account is inactive from now on, and the deletion is pending.
-- Takes locks in the same order as heartbeats, profile by profile: the locks under which sessions
-- start (see migration 0004), then the open sessions, account and profiles last. So they do not
-- deadlock, except with a beat of a session that has ended: of those two, `lock_timeout` ends one.
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
theirs as materialized (
    select p.id
    from profiles as p
    join target as t on t.id = p.user_id
    order by p.id
),
size as materialized (
    select greatest(
        (select count(*) from theirs),
        (
            select count(*)
            from (
                select
                from theirs as t
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
                from theirs as t
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
                from theirs as t
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
pending as (
    insert into pending_deletions (kind, id)
    select 'account', t.id
    from target as t
    cross join size as z
    where z.is_large
    on conflict (kind, id) do nothing
),
deactivated as (
    update users as u
    set is_active = false
    from target as t
    cross join size as z
    where u.id = t.id and z.is_large
),
turns as materialized (
    select pg_advisory_xact_lock(uuid_hash_extended(t.id, 0)) as taken
    from theirs as t
    cross join size as z
    where not z.is_large
),
held as materialized (
    select s.id
    from viewing_sessions as s
    cross join size as z
    where s.profile_id in (select t.id from theirs as t)
        and s.ended_at is null
        and not z.is_large
        and (select count(*) from turns) > 0
    order by s.profile_id
    for no key update of s
),
deleted as (
    delete from users as u
    using target as t
    cross join size as z
    where u.id = t.id
        and not z.is_large
        and (select count(*) from held) >= 0
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
    exists (select from target) as is_found,
    exists (select from deleted) as is_deleted,
    (
        select count(pg_notify('viewing_config_changed', concat_ws(' ', 'deleted', $3::uuid, t.id)))
        from theirs as t
    ) as told
from caller as c
