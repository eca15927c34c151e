-- Ends the lock of a profile, if there is one.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 has_proof bool                the request has a valid PIN token
-- $4 pin_mark text                 fingerprint of the PIN in it; null: any
-- $5 origin text                   id of the change, for the notification
-- $6 now timestamptz
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: is_confirmed bool           the PIN is the one in $4, and a strict account has a proof
-- row: notified text               empty if a row was deleted; the result of pg_notify
-- row: listeners text[]            instances that listen; the caller waits for them
--
-- No row: the account is unknown.
-- Without a lock nothing changes and nobody is notified, so a repeated request costs little.
-- Writes lock.cleared if the lock had not ended. Reads one row of each table by its primary key.
-- PostgreSQL sends the notification at commit, so an instance that reloads then finds no row.
with owner as (
    select
        u.is_active,
        p.id as profile_id,
        (
            $3::bool
            or not exists (select from viewing_strict_accounts as t where t.account_id = u.id)
        )
        and (
            $4::text is null
            or $4::text = left(encode(sha256(convert_to(u.pin_hash, 'UTF8')), 'hex'), 32)
        ) as is_confirmed
    from users as u
    left join profiles as p on p.id = $2::uuid and p.user_id = u.id
    where u.id = $1::uuid
),
changed as (
    delete from viewing_locks as l
    using owner as o
    where l.profile_id = o.profile_id and o.is_active and o.is_confirmed
    returning
        l.profile_id,
        l.locked_until
),
told as materialized (
    select
        pg_notify(
            'viewing_config_changed', concat_ws(' ', $5::text, $1::uuid::text, c.profile_id::text)
        )::text as notified
    from changed as c
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select $1::uuid, c.profile_id, 'lock.cleared', $6::timestamptz, '{}'
    from changed as c
    where c.locked_until > $6::timestamptz
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    coalesce(o.is_confirmed, false) as is_confirmed,
    t.notified,
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
from owner as o
left join changed as c on true
left join told as t on true
