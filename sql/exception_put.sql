-- Sets the present members of the exception of one viewing day; the others stay.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 has_proof bool                the request has a valid PIN token
-- $4 pin_mark text                 fingerprint of the PIN in it; null: any
-- $5 day date
-- $6 sets_limit bool               set the next value; a new exception without it keeps the limit
-- $7 limit_minutes int             null is unlimited
-- $8 lifts_downtime bool           null: unchanged
-- $9 origin text                   id of the change, for the notification
-- $10 now timestamptz
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: day date                    the stored exception; null: nothing was done
-- row: changes_limit bool
-- row: limit_minutes int
-- row: lifts_downtime bool
-- row: updated_at timestamptz
-- row: is_confirmed bool           the PIN is the one in $4, and a strict account has a proof
-- row: notified text               empty if the change was stored; the result of pg_notify
-- row: listeners text[]            instances that listen; the caller waits for them
--
-- No row: the account is unknown.
-- One upsert on the primary key, so concurrent changes of different members are both kept.
-- Writes schedule.changed if the exception is new or another one than before. `before` is locked, so of
-- two equal changes of a stored exception at once one is announced.
-- `before` finds the owner in a subquery, because Citus reads a part wrongly that locks rows and joins.
-- PostgreSQL sends the notification at commit, so an instance that reloads then reads the new row.
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
before as materialized (
    select e.changes_limit, e.limit_minutes, e.lifts_downtime
    from viewing_exceptions as e
    where e.profile_id = (
        select o.profile_id from owner as o where o.is_active and o.is_confirmed
    )
        and e.day = $5::date
    for no key update
),
changed as (
    insert into viewing_exceptions as e (
        profile_id, day, changes_limit, limit_minutes, lifts_downtime, updated_at
    )
    select
        o.profile_id,
        $5::date,
        $6::bool,
        case when $6::bool then $7::int end,
        coalesce($8::bool, false),
        $10::timestamptz
    from owner as o
    where o.is_active
        and o.profile_id is not null
        and o.is_confirmed
        and (select count(*) from before) >= 0
    on conflict (profile_id, day) do update
    set
        changes_limit = $6::bool or e.changes_limit,
        limit_minutes = case when $6::bool then $7::int else e.limit_minutes end,
        lifts_downtime = coalesce($8::bool, e.lifts_downtime),
        updated_at = $10::timestamptz
    returning
        e.profile_id, e.day, e.changes_limit, e.limit_minutes, e.lifts_downtime, e.updated_at
),
told as materialized (
    select
        pg_notify(
            'viewing_config_changed', concat_ws(' ', $9::text, $1::uuid::text, c.profile_id::text)
        )::text as notified
    from changed as c
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select
        $1::uuid,
        c.profile_id,
        'schedule.changed',
        $10::timestamptz,
        jsonb_build_object('day', c.day)
    from changed as c
    left join before as b on true
    where (c.changes_limit, c.limit_minutes, c.lifts_downtime)
        is distinct from (b.changes_limit, b.limit_minutes, b.lifts_downtime)
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    c.day,
    c.changes_limit,
    c.limit_minutes,
    c.lifts_downtime,
    c.updated_at,
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
