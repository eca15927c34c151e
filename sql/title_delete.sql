-- Deletes a title; the sessions that watched it go with it, what they counted stays.
--
-- $1 caller_id uuid                who asks
-- $2 title_id uuid
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: is_deleted bool             false: there was no such title
--
-- No row: the caller is unknown.
-- `viewing_sessions.title_id` has no index (0001 says why): the sessions are found by one scan. A
-- heartbeat that would start this title meanwhile fails closed; those that share its statement wait
-- for it twice, up to `lock_timeout` each: once together, once for the first that is tried alone.
with caller as (
    select u.is_active, u.is_admin
    from users as u
    where u.id = $1::uuid
),
deleted as (
    delete from titles as t
    using caller as c
    where t.id = $2::uuid and c.is_active and c.is_admin
    returning t.id
)
select
    c.is_active,
    c.is_admin,
    exists (select from deleted) as is_deleted
from caller as c
