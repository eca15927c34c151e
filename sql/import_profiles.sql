-- Merges the staged profiles and returns the lines that it refuses.
--
-- $1 caller_id uuid                the administrator; null: an operator at the command line
-- $2 now timestamptz
-- $3 origin text                   id of the change, for the notification
--
-- row: is_allowed bool             the caller is an active administrator
-- row: merged int8                 lines whose record is now stored
-- row: refused int8                lines that were not merged
-- row: lines int8[]                numbers of the first 5000 refused lines
-- row: errors text[]               why, in the order of `lines`
-- row: notified text               empty if a notification was sent, else null
-- row: listeners text[]            instances that must acknowledge the notification
--
-- A profile never moves to another account.
-- Writes only rows that differ, and never a key column, so heartbeats do not wait for an import.
-- An absent member keeps its stored value, also a null of an adopted table.
-- One notification invalidates every cached configuration if any profile became a child or an adult.
-- A profile that another transaction inserts meanwhile violates `profiles_pkey`, and one whose
-- account is deleted meanwhile `profiles_user_id_fkey`; the caller retries the batch.
with caller as (
    select $1::uuid is null or exists (
        select from users as u where u.id = $1::uuid and u.is_active and u.is_admin
    ) as is_allowed
),
staged as materialized (
    select
        l.line,
        m.id,
        m.account_id,
        m.name,
        m.parental_rating,
        m.is_kids,
        p.id is not null as is_stored,
        p.id is not null and p.is_kids is distinct from m.is_kids as is_kids_changed,
        case
            when d.id is not null then 'id: Profile is being deleted'
            when p.id is not null and p.user_id is distinct from m.account_id
            then 'account_id: Profile belongs to another account'
            when u.id is null then 'account_id: Account not found'
        end as error
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
updated as (
    update profiles as p
    set
        name = a.name,
        parental_rating = coalesce(a.parental_rating, p.parental_rating),
        is_kids = a.is_kids
    from staged as a
    cross join caller as c
    where c.is_allowed
        and a.error is null
        and a.is_stored
        and p.id = a.id
        and (p.name, p.parental_rating, p.is_kids)
        is distinct from (a.name, coalesce(a.parental_rating, p.parental_rating), a.is_kids)
),
inserted as (
    insert into profiles (id, user_id, name, parental_rating, is_kids, created_at)
    select
        a.id,
        a.account_id,
        a.name,
        coalesce(a.parental_rating, 'TV-MA'),
        a.is_kids,
        $2::timestamptz
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
        as errors,
    case
        when c.is_allowed and bool_or(a.is_kids_changed and a.error is null)
        then pg_notify('viewing_config_changed', concat_ws(' ', $3::text, 'everything'))::text
    end as notified,
    case
        when c.is_allowed and bool_or(a.is_kids_changed and a.error is null)
        then (
            select coalesce(array_agg(distinct right(a.application_name, 32)), '{}')
            from pg_stat_activity as a
            where a.datname = current_database()
                and a.application_name like 'viewing-time listener %'
        )
        else '{}'
    end as listeners
from caller as c
left join staged as a on true
group by c.is_allowed
