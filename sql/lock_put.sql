-- Locks the profile of a child until a time, in place of an earlier lock.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 has_proof bool                the request has a valid PIN token
-- $4 pin_mark text                 fingerprint of the PIN in it; null: any
-- $5 locked_until timestamptz
-- $6 origin text                   id of the change, for the notification
-- $7 now timestamptz
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: is_child bool               false: nothing was done
-- row: locked_until timestamptz    the stored lock; null: nothing was done
-- row: is_confirmed bool           the PIN is the one in $4, and a strict account has a proof
-- row: notified text               empty if the lock was stored; the result of pg_notify
-- row: listeners text[]            instances that listen; the caller waits for them
--
-- No row: the account is unknown.
-- One upsert on the primary key; of two locks at once the last one counts.
-- Writes lock.set unless the lock before has the same end. `before` is locked, so of two equal changes
-- of a stored lock at once one is announced.
-- `before` finds the owner in a subquery, because Citus reads a part wrongly that locks rows and joins.
-- PostgreSQL sends the notification at commit, so an instance that reloads then reads the new row.
with owner as (
    select
        u.is_active,
        p.id as profile_id,
        coalesce(p.is_kids, false) as is_child,
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
before as materialized (
    select l.locked_until
    from viewing_locks as l
    where l.profile_id = (
        select o.profile_id from owner as o where o.is_active and o.is_confirmed
    )
    for no key update
),
changed as (
    insert into viewing_locks as l (profile_id, locked_until, locked_at)
    select o.profile_id, $5::timestamptz, $7::timestamptz
    from owner as o
    where o.is_active
        and o.is_child
        and o.is_confirmed
        and (select count(*) from before) >= 0
    on conflict (profile_id) do update
    set locked_until = excluded.locked_until, locked_at = excluded.locked_at
    returning
        l.profile_id,
        l.locked_until
),
told as materialized (
    select
        pg_notify(
            'viewing_config_changed', concat_ws(' ', $6::text, $1::uuid::text, c.profile_id::text)
        )::text as notified
    from changed as c
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select
        $1::uuid,
        c.profile_id,
        'lock.set',
        $7::timestamptz,
        jsonb_build_object(
            'locked_until',
            to_char(c.locked_until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        )
    from changed as c
    left join before as b on true
    where c.locked_until is distinct from b.locked_until
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    o.is_child,
    c.locked_until,
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
