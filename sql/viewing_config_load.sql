-- Reads a profile's configuration and stores the defaults where there is none.
--
-- $1 account_id uuid               who asks
-- $2 profile_id uuid
-- $3 adults_too bool               false: an adult profile without a configuration gets none
-- $4 weekday_limit_minutes int     the defaults
-- $5 weekend_limit_minutes int
-- $6 reset_hour int
-- $7 educational_exempt bool
-- $8 timezone text
-- $9 now timestamptz
--
-- row: is_active bool              the account may ask
-- row: is_owner bool               the profile is the account's
-- row: is_child bool
-- row: has_configuration bool      false: the next six are null
-- row: weekday_limit_minutes int   null is unlimited
-- row: weekend_limit_minutes int   null is unlimited
-- row: reset_hour int
-- row: educational_exempt bool
-- row: timezone text
-- row: updated_at timestamptz
--
-- No row: the account is unknown.
-- Of two first reads at once one inserts; the other waits at `uq_vtc_profile` and then takes the
-- stored row from its own no-change update, since its snapshot cannot see it. The `not exists`
-- keeps that write off every later read.
with owner as (
    select
        u.is_active,
        p.id as profile_id,
        p.is_kids
    from users as u
    left join profiles as p on p.id = $2::uuid and p.user_id = u.id
    where u.id = $1::uuid
),
stored as (
    insert into viewing_time_configs as c (
        id, profile_id, weekday_limit_minutes, weekend_limit_minutes, reset_hour,
        educational_exempt, timezone, created_at, updated_at
    )
    select
        gen_random_uuid(),
        o.profile_id,
        $4::int,
        $5::int,
        $6::int,
        $7::bool,
        $8::text,
        $9::timestamptz,
        $9::timestamptz
    from owner as o
    where o.is_active
        and o.profile_id is not null
        and (o.is_kids or $3::bool)
        and not exists (
            select from viewing_time_configs as k where k.profile_id = o.profile_id
        )
    on conflict (profile_id) do update set profile_id = excluded.profile_id
    returning
        c.profile_id, c.weekday_limit_minutes, c.weekend_limit_minutes, c.reset_hour,
        c.educational_exempt, c.timezone, c.updated_at
),
present as (
    select
        k.profile_id, k.weekday_limit_minutes, k.weekend_limit_minutes, k.reset_hour,
        k.educational_exempt, k.timezone, k.updated_at
    from viewing_time_configs as k
    join owner as o on o.profile_id = k.profile_id
    union all
    select
        s.profile_id, s.weekday_limit_minutes, s.weekend_limit_minutes, s.reset_hour,
        s.educational_exempt, s.timezone, s.updated_at
    from stored as s
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    coalesce(o.is_kids, false) as is_child,
    c.profile_id is not null as has_configuration,
    c.weekday_limit_minutes,
    c.weekend_limit_minutes,
    c.reset_hour,
    c.educational_exempt,
    c.timezone,
    c.updated_at
from owner as o
left join present as c on true
