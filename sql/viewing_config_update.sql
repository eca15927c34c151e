-- Sets the present members of a configuration; the others stay.
--
-- $1  account_id uuid              the caller
-- $2  profile_id uuid
-- $3  pin_mark text                fingerprint of the PIN in the PIN token; null: any
-- $4  sets_weekday bool            set the next value
-- $5  weekday_limit_minutes int    null is unlimited
-- $6  sets_weekend bool
-- $7  weekend_limit_minutes int    null is unlimited
-- $8  reset_hour int               null: unchanged
-- $9  educational_exempt bool      null: unchanged
-- $10 timezone text                null: unchanged
-- $11 default_weekday int          the defaults, for a profile without a configuration
-- $12 default_weekend int
-- $13 default_reset_hour int
-- $14 default_exempt bool
-- $15 default_timezone text
-- $16 origin text                 id of the change, for the notification
-- $17 now timestamptz
-- $18 id uuid                     of the configuration, where the profile has none
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: is_confirmed bool           the PIN is still the one in $3 (if there is one)
-- row: weekday_limit_minutes int   the stored configuration; null: nothing was done
-- row: weekend_limit_minutes int
-- row: reset_hour int
-- row: educational_exempt bool
-- row: timezone text
-- row: updated_at timestamptz
-- row: notified text               empty if the change was stored; the result of pg_notify
-- row: listeners text[]            instances that listen; the caller waits for them
--
-- No row: the account is unknown.
-- One upsert on `uq_vtc_profile`, so concurrent changes of different members are all kept.
-- PostgreSQL sends the notification at commit, so an instance that reloads then reads the new row.
with owner as (
    select
        u.id as account_id,
        u.is_active,
        p.id as profile_id,
        $3::text is null or $3::text = left(encode(sha256(convert_to(u.pin_hash, 'UTF8')), 'hex'), 32)
            as is_confirmed
    from users as u
    left join profiles as p on p.id = $2::uuid and p.user_id = u.id
    where u.id = $1::uuid
),
changed as (
    insert into viewing_time_configs as c (
        id, profile_id, weekday_limit_minutes, weekend_limit_minutes, reset_hour,
        educational_exempt, timezone, created_at, updated_at
    )
    select
        $18::uuid,
        o.profile_id,
        case when $4::bool then $5::int else $11::int end,
        case when $6::bool then $7::int else $12::int end,
        coalesce($8::int, $13::int),
        coalesce($9::bool, $14::bool),
        coalesce($10::text, $15::text),
        $17::timestamptz,
        $17::timestamptz
    from owner as o
    where o.is_active and o.profile_id is not null and o.is_confirmed
    on conflict (profile_id) do update
    set
        weekday_limit_minutes = case when $4::bool then $5::int else c.weekday_limit_minutes end,
        weekend_limit_minutes = case when $6::bool then $7::int else c.weekend_limit_minutes end,
        reset_hour = coalesce($8::int, c.reset_hour, $13::int),
        educational_exempt = coalesce($9::bool, c.educational_exempt, $14::bool),
        timezone = coalesce($10::text, c.timezone, $15::text),
        updated_at = $17::timestamptz
    returning
        c.weekday_limit_minutes, c.weekend_limit_minutes, c.reset_hour, c.educational_exempt,
        c.timezone, c.updated_at,
        pg_notify(
            'viewing_config_changed', concat_ws(' ', $16::text, $1::uuid::text, c.profile_id::text)
        )::text as notified
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    coalesce(o.is_confirmed, false) as is_confirmed,
    c.weekday_limit_minutes,
    c.weekend_limit_minutes,
    c.reset_hour,
    c.educational_exempt,
    c.timezone,
    c.updated_at,
    c.notified,
    case
        when c.notified is not null
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
