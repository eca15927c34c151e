-- Deletes a profile; its configuration, viewing and grants go with it.
--
-- $1 caller_id uuid                who asks
-- $2 profile_id uuid
-- $3 origin text                   the instance that asks, named in the notification
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: account_id uuid             whose profile it was; null: there was no such profile
-- row: told text                   always empty: the notification's own result
--
-- No row: the caller is unknown.
-- What a heartbeat locks first is locked here first too: the lock under which a session starts (see
-- migration 0004), then the open session, the profile last. So the two do not deadlock, but for a
-- beat of a session that has ended: of those two, `lock_timeout` ends one.
with caller as (
    select u.is_active, u.is_admin
    from users as u
    where u.id = $1::uuid
),
turn as materialized (
    select pg_advisory_xact_lock(uuid_hash_extended($2::uuid, 0)) as taken
    from caller as c
    where c.is_active and c.is_admin
),
held as materialized (
    select s.id
    from viewing_sessions as s
    where s.profile_id = $2::uuid
        and s.ended_at is null
        and (select count(*) from turn) > 0
    for no key update
),
deleted as (
    delete from profiles as p
    using caller as c
    where p.id = $2::uuid
        and c.is_active
        and c.is_admin
        and (select count(*) from held) >= 0
    returning
        p.user_id,
        pg_notify(
            'viewing_config_changed', concat_ws(' ', $3::text, p.user_id::text, p.id::text)
        )::text as told
)
select
    c.is_active,
    c.is_admin,
    d.user_id as account_id,
    d.told
from caller as c
left join deleted as d on true
