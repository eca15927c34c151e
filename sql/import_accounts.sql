-- Merges the staged accounts, and tells which of them it cannot.
--
-- $1 caller_id uuid                who asks; null: the operator, at the command line
-- $2 now timestamptz
--
-- row: is_allowed bool             the caller is an active administrator
-- row: merged int8                 lines that are in the table now, changed or found so
-- row: refused int8                lines that are not
-- row: lines int8[]                the first 100 of these, in step with the next
-- row: faults text[]
--
-- An e-mail is free where no other account has it, before this batch or in it: an e-mail that
-- moves takes two imports, so that the order of the rows cannot matter to `users_email_key`.
-- An account that another transaction makes meanwhile fails at `users_pkey` or `users_email_key`:
-- the batch is to be tried again, and finds it.
-- Only rows that differ are written, each from the row as it is. A member that the line lacks stays
-- as it is, also where an adopted table has a null.
with caller as (
    select $1::uuid is null or exists (
        select from users as u where u.id = $1::uuid and u.is_active and u.is_admin
    ) as is_allowed
),
asked as materialized (
    select
        l.line,
        m.id,
        m.email,
        m.password_hash,
        m.subscription_tier,
        m.is_admin,
        m.is_active,
        exists (select from users as u where u.id = m.id) as is_known,
        case
            when d.id is not null then 'id: Account is being deleted'
            when l.line > min(l.line) over (partition by m.email)
                or exists (select from users as u where u.email = m.email and u.id <> m.id)
            then 'email: Belongs to another account'
        end as fault
    from import_lines as l
    cross join lateral jsonb_to_record(l.members) as m (
        id uuid, email text, password_hash text, subscription_tier text, is_admin bool,
        is_active bool
    )
    left join pending_deletions as d on d.kind = 'account' and d.id = m.id
    where l.type = 'account'
),
changed as (
    update users as u
    set
        email = a.email,
        password_hash = coalesce(a.password_hash, u.password_hash),
        subscription_tier = coalesce(a.subscription_tier, u.subscription_tier),
        is_admin = coalesce(a.is_admin, u.is_admin),
        is_active = coalesce(a.is_active, u.is_active)
    from asked as a
    cross join caller as c
    where c.is_allowed
        and a.fault is null
        and a.is_known
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
made as (
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
    from asked as a
    cross join caller as c
    where c.is_allowed and a.fault is null and not a.is_known
    order by a.id
)
select
    c.is_allowed,
    count(a.line) filter (where a.fault is null) as merged,
    count(a.fault) as refused,
    coalesce((array_agg(a.line order by a.line) filter (where a.fault is not null))[1:100], '{}')
        as lines,
    coalesce((array_agg(a.fault order by a.line) filter (where a.fault is not null))[1:100], '{}')
        as faults
from caller as c
left join asked as a on true
group by c.is_allowed
