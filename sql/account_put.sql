-- Makes an account, or changes the one that has its id.
--
-- $1 caller_id uuid                who asks
-- $2 account_id uuid
-- $3 email text
-- $4 password_hash text            bcrypt; null: stays, and a new account has none
-- $5 subscription_tier text        null: stays; new: basic
-- $6 is_admin bool                 null: stays; new: false
-- $7 is_active bool                null: stays; new: true
-- $8 now timestamptz
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: is_pending bool             its deletion is pending, so nothing was done
-- row: email text                  the account as it is now; null where nothing was done
-- row: subscription_tier text      null also in a row of an adopted table
-- row: account_is_admin bool
-- row: account_is_active bool
--
-- No row: the caller is unknown. An e-mail of another account fails at `users_email_key`.
-- Every member is set from the row as it is, so what a PIN or another put changes meanwhile stays.
-- `!` is no bcrypt hash: no password matches it.
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
