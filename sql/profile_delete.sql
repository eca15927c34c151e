-- Deletes a profile; its configuration, viewing and grants go with it.
--
-- $1 caller_id uuid                who asks
-- $2 profile_id uuid
-- $3 origin text                   the instance that asks, which need not be told
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: account_id uuid             whose profile it was; null: there was no such profile
-- row: told text                   always empty: the notification's own result
--
-- No row: the caller is unknown.
-- The open session is locked before the profile is: a heartbeat locks its session first and its
-- profile last, so the two cannot deadlock.
with caller as (
    select u.is_active, u.is_admin
    from users as u
    where u.id = $1::uuid
),
held as materialized (
    select s.id
    from viewing_sessions as s
    cross join caller as c
    where s.profile_id = $2::uuid and s.ended_at is null and c.is_active and c.is_admin
    for no key update of s
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
