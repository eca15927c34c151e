-- Deletes an account; its profiles, their viewing and the grants go with it.
--
-- $1 caller_id uuid                who asks
-- $2 account_id uuid
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: is_deleted bool             false: there was no such account
-- row: told int8                   notifications sent, one for each profile
--
-- No row: the caller is unknown.
-- What heartbeats lock first is locked here first too, in profile order: the locks under which
-- sessions start (see migration 0004), then the open sessions, account and profiles last. So they do
-- not deadlock, but for a beat of a session that has ended: of those two, `lock_timeout` ends one.
with caller as (
    select u.is_active, u.is_admin
    from users as u
    where u.id = $1::uuid
),
theirs as materialized (
    select p.id
    from profiles as p
    cross join caller as c
    where p.user_id = $2::uuid and c.is_active and c.is_admin
    order by p.id
),
turns as materialized (
    select pg_advisory_xact_lock(uuid_hash_extended(t.id, 0)) as taken
    from theirs as t
),
held as materialized (
    select s.id
    from viewing_sessions as s
    where s.profile_id in (select t.id from theirs as t)
        and s.ended_at is null
        and (select count(*) from turns) > 0
    order by s.profile_id
    for no key update
),
deleted as (
    delete from users as u
    using caller as c
    where u.id = $2::uuid
        and c.is_active
        and c.is_admin
        and (select count(*) from held) >= 0
    returning u.id
)
select
    c.is_active,
    c.is_admin,
    exists (select from deleted) as is_deleted,
    (
        select count(pg_notify('viewing_config_changed', concat_ws(' ', 'deleted', $2::uuid, t.id)))
        from theirs as t
    ) as told
from caller as c
