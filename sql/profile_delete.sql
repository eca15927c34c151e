-- Deletes a profile with its configuration, viewing and grants, or has that done later.
--
-- $1 caller_id uuid                who asks; null where the next is true
-- $2 is_operator bool              asked by somebody who has the database itself
-- $3 profile_id uuid
-- $4 most int                      with so many rows of a table or more it is done later
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: is_found bool               false: there is no such profile
-- row: is_deleted bool             false, where there is one: its deletion is pending
-- row: account_id uuid             whose profile it was; null: it was not deleted
-- row: told text                   always empty: the notification's own result
--
-- Always one row; an unknown caller is not active. All or nothing where it is done at once; where it
-- is done later (deletion_batch), the profile can be used until then.
-- Takes locks in the same order as a heartbeat: the lock under which a session starts (see migration
-- 0004), then the open session, the profile last. So the two do not deadlock, except with a beat of
-- a session that has ended: of those two, `lock_timeout` ends one.
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
pending as (
    insert into pending_deletions (kind, id)
    select 'profile', t.id
    from target as t
    cross join size as z
    where z.is_large
    on conflict (kind, id) do nothing
),
turn as materialized (
    select pg_advisory_xact_lock(uuid_hash_extended(t.id, 0)) as taken
    from target as t
    cross join size as z
    where not z.is_large
),
held as materialized (
    select s.id
    from viewing_sessions as s
    where s.profile_id = $3::uuid
        and s.ended_at is null
        and (select count(*) from turn) > 0
    for no key update
),
deleted as (
    delete from profiles as p
    using target as t
    cross join size as z
    where p.id = t.id
        and not z.is_large
        and (select count(*) from held) >= 0
    returning
        p.user_id,
        pg_notify(
            'viewing_config_changed', concat_ws(' ', 'deleted', p.user_id::text, p.id::text)
        )::text as told
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
    exists (select from target) as is_found,
    exists (select from deleted) as is_deleted,
    d.user_id as account_id,
    d.told
from caller as c
left join deleted as d on true
