-- Makes a profile of an account, or changes the one that has its id.
--
-- $1 caller_id uuid                who asks
-- $2 profile_id uuid
-- $3 account_id uuid               whose profile it is, and stays
-- $4 name text
-- $5 is_kids bool                  a child, so viewing is counted and limited
-- $6 parental_rating text          null: stays; new: TV-MA
-- $7 origin text                   the instance that asks and its change, for the notification
-- $8 now timestamptz
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: is_pending bool             its deletion is pending, so nothing was done
-- row: is_account bool             there is such an account, and it is not being deleted
-- row: is_put bool                 false: the profile is another account's
-- row: name text                   the profile as it is now; null where nothing was done
-- row: is_kids bool
-- row: parental_rating text
-- row: told text                   always empty: the notification's own result
-- row: listeners text[]            instances that listen, to be waited for
--
-- No row: the caller is unknown.
-- The account is locked against its deletion first, so `profiles_user_id_fkey` cannot fail. No key
-- changes: heartbeats, which ask only that their profile stay, do not wait.
with caller as (
    select u.is_active, u.is_admin
    from users as u
    where u.id = $1::uuid
),
pending as (
    select d.id
    from pending_deletions as d
    where d.kind = 'profile' and d.id = $2::uuid
),
account as materialized (
    select u.id
    from users as u
    cross join caller as c
    where u.id = $3::uuid
        and c.is_active
        and c.is_admin
        and not exists (
            select from pending_deletions as d where d.kind = 'account' and d.id = u.id
        )
    for key share of u
),
put as (
    insert into profiles as p (id, user_id, name, parental_rating, is_kids, created_at)
    select
        $2::uuid, a.id, $4::text, coalesce($6::text, 'TV-MA'), $5::bool, $8::timestamptz
    from account as a
    where not exists (select from pending)
    on conflict (id) do update
    set
        name = excluded.name,
        parental_rating = coalesce($6::text, p.parental_rating),
        is_kids = excluded.is_kids
    where p.user_id = excluded.user_id
    returning
        p.id, p.name, p.is_kids, p.parental_rating,
        pg_notify(
            'viewing_config_changed', concat_ws(' ', $7::text, p.user_id::text, p.id::text)
        )::text as told
)
select
    c.is_active,
    c.is_admin,
    exists (select from pending) as is_pending,
    exists (select from account) as is_account,
    p.id is not null as is_put,
    p.name,
    p.is_kids,
    p.parental_rating,
    p.told,
    case
        when p.told is not null
        then (
            select coalesce(array_agg(distinct right(a.application_name, 32)), '{}')
            from pg_stat_activity as a
            where a.datname = current_database()
                and a.application_name like 'viewing-time listener %'
        )
        else '{}'
    end as listeners
from caller as c
left join put as p on true
