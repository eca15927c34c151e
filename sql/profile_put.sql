-- Inserts a profile, or updates the one with this id.
--
-- $1 caller_id uuid
-- $2 profile_id uuid
-- $3 account_id uuid               owner; never changes
-- $4 name text
-- $5 is_kids bool                  a child: viewing is counted and limited
-- $6 parental_rating text          null: unchanged; new: TV-MA
-- $7 origin text                   id of the change, for the notification
-- $8 now timestamptz
--
-- row: is_active bool              the caller's account is active
-- row: is_admin bool               the caller is an administrator
-- row: is_pending bool             the profile is being deleted, so nothing was written
-- row: is_account bool             the owner exists and is not being deleted
-- row: is_put bool                 false: the profile belongs to another account
-- row: name text                   the stored profile; null if nothing was written
-- row: is_kids bool
-- row: parental_rating text
-- row: listeners text[]            instances that must acknowledge the notification
--
-- No row: the caller is unknown.
-- The owner is locked first, so that a concurrent deletion cannot violate `profiles_user_id_fkey`.
-- No key changes, so heartbeats (which lock the key of their profile) do not wait.
-- Parts that lock rows take values from others by subqueries, because Citus reads a part wrongly that
-- locks rows and joins.
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
    where u.id = $3::uuid
        and (select c.is_active and c.is_admin from caller as c)
        and not exists (
            select from pending_deletions as d where d.kind = 'account' and d.id = u.id
        )
    for key share
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
        p.id, p.user_id, p.name, p.is_kids, p.parental_rating
),
told as materialized (
    select
        pg_notify(
            'viewing_config_changed', concat_ws(' ', $7::text, p.user_id::text, p.id::text)
        )::text as notified
    from put as p
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
    case
        when t.notified is not null
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
left join told as t on true
