-- Merges the staged accounts and returns the lines that it refuses.
--
-- $1 caller_id uuid                the administrator; null: an operator at the command line
-- $2 now timestamptz
--
-- row: is_allowed bool             the caller is an active administrator
-- row: merged int8                 lines whose record is now stored
-- row: refused int8                lines that were not merged
-- row: lines int8[]                numbers of the first 5000 refused lines
-- row: errors text[]               why, in the order of `lines`
--
-- Only rows that differ are written. An absent member keeps its stored value, also a null of an
-- adopted table.
-- An e-mail address is free if no other account has it, neither in the table nor on an earlier line.
-- So moving an address from one account to another takes two imports, and the order in which rows
-- are written cannot violate `users_email_key`.
-- An account that another transaction inserts meanwhile violates `users_pkey` or `users_email_key`;
-- the caller retries the batch.
with caller as (
    select $1::uuid is null or exists (
        select from users as u where u.id = $1::uuid and u.is_active and u.is_admin
    ) as is_allowed
),
staged as materialized (
    select
        l.line,
        m.id,
        m.email,
        m.password_hash,
        m.subscription_tier,
        m.is_admin,
        m.is_active,
        exists (select from users as u where u.id = m.id) as is_stored,
        case
            when d.id is not null then 'id: Account is being deleted'
            when l.line > min(l.line) over (partition by m.email)
                or exists (select from users as u where u.email = m.email and u.id <> m.id)
            then 'email: Belongs to another account'
        end as error
    from import_lines as l
    cross join lateral jsonb_to_record(l.members) as m (
        id uuid, email text, password_hash text, subscription_tier text, is_admin bool,
        is_active bool
    )
    left join pending_deletions as d on d.kind = 'account' and d.id = m.id
    where l.type = 'account'
),
updated as (
    update users as u
    set
        email = a.email,
        password_hash = coalesce(a.password_hash, u.password_hash),
        subscription_tier = coalesce(a.subscription_tier, u.subscription_tier),
        is_admin = coalesce(a.is_admin, u.is_admin),
        is_active = coalesce(a.is_active, u.is_active)
    from staged as a
    cross join caller as c
    where c.is_allowed
        and a.error is null
        and a.is_stored
        and u.id = a.id
        and (u.email, u.password_hash, u.subscription_tier, u.is_admin, u.is_active)
        is distinct from (
            a.email,
            coalesce(a.password_hash, u.password_hash),
            coalesce(a.subscription_tier, u.subscription_tier),
            coalesce(a.is_admin, u.is_admin),
            coalesce(a.is_active, u.is_active)
        )
),
inserted as (
    insert into users (
        id, email, password_hash, subscription_tier, is_admin, is_active, created_at,
        pin_failed_attempts
    )
    select
        a.id,
        a.email,
        coalesce(a.password_hash, '!'),
        coalesce(a.subscription_tier, 'basic'),
        coalesce(a.is_admin, false),
        coalesce(a.is_active, true),
        $2::timestamptz,
        0
    from staged as a
    cross join caller as c
    where c.is_allowed and a.error is null and not a.is_stored
    order by a.id
)
select
    c.is_allowed,
    count(a.line) filter (where a.error is null) as merged,
    count(a.error) as refused,
    coalesce((array_agg(a.line order by a.line) filter (where a.error is not null))[1:5000], '{}')
        as lines,
    coalesce((array_agg(a.error order by a.line) filter (where a.error is not null))[1:5000], '{}')
        as errors
from caller as c
left join staged as a on true
group by c.is_allowed
