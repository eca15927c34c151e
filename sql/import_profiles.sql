-- Merges the staged profiles, and tells which of them it cannot.
--
-- $1 caller_id uuid                who asks; null: the operator, at the command line
-- $2 now timestamptz
-- $3 origin text                   the instance that asks and its change, for the notification
--
-- row: is_allowed bool             the caller is an active administrator
-- row: merged int8                 lines that are in the table now, changed or found so
-- row: refused int8                lines that are not
-- row: lines int8[]                the first 100 of these, in step with the next
-- row: faults text[]
-- row: told text                   empty where the notification was sent, else null
-- row: listeners text[]            instances that listen, to be waited for
--
-- A profile stays its account's. One that another transaction makes meanwhile, or whose account it
-- deletes, fails at `profiles_pkey` or `profiles_user_id_fkey`: the batch is to be tried again.
-- Only rows that differ are written, and no key of theirs: heartbeats do not wait. A member that the
-- line lacks stays as it is, also where an adopted table has a null.
-- One notification, however many turned child or adult: each instance then loads what it needs.
with caller as (
    select $1::uuid is null or exists (
        select from users as u where u.id = $1::uuid and u.is_active and u.is_admin
    ) as is_allowed
),
asked as materialized (
    select
        l.line,
        m.id,
        m.account_id,
        m.name,
        m.parental_rating,
        m.is_kids,
        p.id is not null as is_known,
        p.id is not null and p.is_kids is distinct from m.is_kids as is_turned,
        case
            when d.id is not null then 'id: Profile is being deleted'
            when p.id is not null and p.user_id is distinct from m.account_id
            then 'account_id: Profile belongs to another account'
            when u.id is null then 'account_id: Account not found'
        end as fault
    from import_lines as l
    cross join lateral jsonb_to_record(l.members) as m (
        id uuid, account_id uuid, name text, parental_rating text, is_kids bool
    )
    left join profiles as p on p.id = m.id
    left join pending_deletions as d on d.kind = 'profile' and d.id = m.id
    left join pending_deletions as g on g.kind = 'account' and g.id = m.account_id
    left join users as u on u.id = m.account_id and g.id is null
    where l.type = 'profile'
),
changed as (
    update profiles as p
    set
        name = a.name,
        parental_rating = coalesce(a.parental_rating, p.parental_rating),
        is_kids = a.is_kids
    from asked as a
    cross join caller as c
    where c.is_allowed
        and a.fault is null
        and a.is_known
        and p.id = a.id
        and (p.name, p.parental_rating, p.is_kids)
        is distinct from (a.name, coalesce(a.parental_rating, p.parental_rating), a.is_kids)
),
made as (
    insert into profiles (id, user_id, name, parental_rating, is_kids, created_at)
    select
        a.id,
        a.account_id,
        a.name,
        coalesce(a.parental_rating, 'TV-MA'),
        a.is_kids,
        $2::timestamptz
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
        as faults,
    case
        when c.is_allowed and bool_or(a.is_turned and a.fault is null)
        then pg_notify('viewing_config_changed', concat_ws(' ', $3::text, 'everything'))::text
    end as told,
    case
        when c.is_allowed and bool_or(a.is_turned and a.fault is null)
        then (
            select coalesce(array_agg(distinct right(a.application_name, 32)), '{}')
            from pg_stat_activity as a
            where a.datname = current_database()
                and a.application_name like 'viewing-time listener %'
        )
        else '{}'
    end as listeners
from caller as c
left join asked as a on true
group by c.is_allowed
