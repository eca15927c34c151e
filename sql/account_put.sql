-- Inserts an account, or updates the one with this id.
--
-- $1 caller_id uuid
-- $2 account_id uuid
-- $3 email text
-- $4 password_hash text            bcrypt; null: unchanged, and none for a new account
-- $5 subscription_tier text        null: unchanged; new: basic
-- $6 is_admin bool                 null: unchanged; new: false
-- $7 is_active bool                null: unchanged; new: true
-- $8 now timestamptz
--
-- row: is_active bool              the caller's account is active
-- row: is_admin bool               the caller is an administrator
-- row: is_pending bool             the account is being deleted, so nothing was written
-- row: email text                  the stored account; null if nothing was written
-- row: subscription_tier text      can be null in an adopted table
-- row: account_is_admin bool
-- row: account_is_active bool
--
-- No row: the caller is unknown. An e-mail address of another account violates `users_email_key`.
-- Each column is updated from the current row, so a concurrent change of the PIN is kept.
-- `!` is not a bcrypt hash, so it matches no password.
with caller as (
    select u.is_active, u.is_admin
    from users as u
    where u.id = $1::uuid
),
pending as (
    select d.id
    from pending_deletions as d
    where d.kind = 'account' and d.id = $2::uuid
),
put as (
    insert into users as a (
        id, email, password_hash, subscription_tier, is_admin, is_active, created_at,
        pin_failed_attempts
    )
    select
        $2::uuid,
        $3::text,
        coalesce($4::text, '!'),
        coalesce($5::text, 'basic'),
        coalesce($6::bool, false),
        coalesce($7::bool, true),
        $8::timestamptz,
        0
    from caller as c
    where c.is_active and c.is_admin and not exists (select from pending)
    on conflict (id) do update
    set
        email = excluded.email,
        password_hash = coalesce($4::text, a.password_hash),
        subscription_tier = coalesce($5::text, a.subscription_tier),
        is_admin = coalesce($6::bool, a.is_admin),
        is_active = coalesce($7::bool, a.is_active)
    returning
        a.email,
        a.subscription_tier,
        coalesce(a.is_admin, false) as is_admin,
        coalesce(a.is_active, false) as is_active
)
select
    c.is_active,
    c.is_admin,
    exists (select from pending) as is_pending,
    p.email,
    p.subscription_tier,
    p.is_admin as account_is_admin,
    p.is_active as account_is_active
from caller as c
left join put as p on true
