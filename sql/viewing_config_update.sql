-- Sets the present members of a configuration; the others stay.
--
-- $1  account_id uuid              the caller
-- $2  profile_id uuid
-- $3  has_proof bool               the request came with a valid PIN token
-- $4  pin_mark text                fingerprint of the PIN in it; null: any
-- $5  needs_pin bool               the change needs the PIN in every account
-- $6  sets_weekday bool            set the next value
-- $7  weekday_limit_minutes int    null is unlimited
-- $8  sets_weekend bool
-- $9  weekend_limit_minutes int    null is unlimited
-- $10 reset_hour int               null: unchanged
-- $11 educational_exempt bool      null: unchanged
-- $12 timezone text                null: unchanged
-- $13 default_weekday int          the defaults, for a profile without a configuration
-- $14 default_weekend int
-- $15 default_reset_hour int
-- $16 default_exempt bool
-- $17 default_timezone text
-- $18 origin text                  id of the change, for the notification
-- $19 now timestamptz
-- $20 id_prefix text               24 hexadecimal digits, new for each statement, that sort by time
-- $21 old_weekday int              the configuration from which $26 to $29 were computed
-- $22 old_weekend int
-- $23 old_reset_hour int           null: none of them was computed
-- $24 old_timezone text
-- $25 old_day_floor date
-- $26 old_day date                 the viewing day before the change; null: the change moves no day
-- $27 new_day date                 the viewing day after it, without a floor
-- $28 past_days date[]             days before today whose limit is to be kept
-- $29 past_limits int[]            in step with $28; -1 is unlimited
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: is_strict bool              every change of the account needs the PIN
-- row: is_confirmed bool           the PIN is proven and the one in $4, or no PIN is needed
-- row: weekday_limit_minutes int   the stored configuration; null: nothing was done
-- row: weekend_limit_minutes int
-- row: reset_hour int
-- row: educational_exempt bool
-- row: timezone text
-- row: updated_at timestamptz      null where confirmed: the old configuration is another one by now
-- row: notified text               empty if the change was stored; the result of pg_notify
-- row: listeners text[]            instances that listen; the caller waits for them
--
-- No row: the account is unknown.
-- One upsert on `uq_vtc_profile`, so concurrent changes of different members are all kept. It does
-- nothing if $21 to $25 are not the stored values, because the days and limits would be wrong.
-- A new limit is not that of the days before: their balances keep the limit that was in force, unless
-- an earlier change has already kept it. A day without a balance gets one, unless it is before the
-- configuration. The exceptions of a policy are those of the last days only,
-- so older ones are read here.
-- In a strict account no change of zone or reset hour gives a child the allowance of another day. If
-- it moves the viewing day forward, the balances from the old day on move to the new one with their
-- grants, which can still be undone. The days that they leave keep a limit of 0: they carry nothing
-- over except what was carried to them. If it moves the viewing day back, the floor keeps the old one
-- until the calendar has caught up.
-- Balances are locked first, in the order of their days, then the configuration and grants. A
-- heartbeat locks one balance of the profile, so the two cannot deadlock. `held` reads the values of
-- rows that it has waited for. Seconds that a heartbeat adds to the old day after that are moved by
-- `balance_move`.
-- Writes configuration.changed if a member is another one than before; without a stored configuration
-- the defaults were in force. `before` is locked, so of two equal changes of a stored configuration at
-- once one is announced.
-- Citus allows no subquery where an insert meets a row, so the new id tells there whether the profile is
-- a child's. It reads a part wrongly that locks rows and joins, so parts that lock find the owner in a
-- subquery.
-- PostgreSQL sends the notification at commit, so an instance that reloads then reads the new row.
with owner as (
    select
        u.id as account_id,
        u.is_active,
        p.id as profile_id,
        s.account_id is not null as is_strict,
        s.account_id is not null and coalesce(p.is_kids, false) as keeps_days,
        coalesce(p.is_kids, false) as is_child,
        s.account_id is null and not $5::bool
        or $3::bool
        and (
            $4::text is null
            or $4::text = left(encode(sha256(convert_to(u.pin_hash, 'UTF8')), 'hex'), 32)
        ) as is_confirmed
    from users as u
    left join profiles as p on p.id = $2::uuid and p.user_id = u.id
    left join viewing_strict_accounts as s on s.account_id = u.id
    where u.id = $1::uuid
),
held as materialized (
    select
        b.id,
        b.reset_date,
        b.used_seconds,
        b.educational_seconds,
        b.is_unlimited_override,
        b.extended_minutes,
        (select o.keeps_days from owner as o)
            and b.reset_date >= $26::date
            and b.reset_date < $27::date as is_moved,
        b.limit_minutes is null as is_kept
    from viewing_time_balances as b
    where b.profile_id = (
        select o.profile_id from owner as o where o.is_active and o.is_confirmed
    )
        and (
            b.reset_date = any($28::date[])
            or (select o.keeps_days from owner as o)
            and b.reset_date between $26::date and $27::date
        )
    order by b.reset_date
    for no key update
),
before as materialized (
    select jsonb_build_array(
        c.weekday_limit_minutes,
        c.weekend_limit_minutes,
        coalesce(c.reset_hour, $15::int),
        coalesce(c.educational_exempt, $16::bool),
        coalesce(c.timezone, $17::text)
    ) as members
    from viewing_time_configs as c
    where c.profile_id = (
        select o.profile_id from owner as o where o.is_active and o.is_confirmed
    )
        and (select count(*) from held) >= 0
    for no key update
),
changed as (
    insert into viewing_time_configs as c (
        id, profile_id, weekday_limit_minutes, weekend_limit_minutes, reset_hour,
        educational_exempt, timezone, day_floor, created_at, updated_at
    )
    select
        ($20::text || case when o.is_child then '00000000' else '00000001' end)::uuid,
        o.profile_id,
        case when $6::bool then $7::int else $13::int end,
        case when $8::bool then $9::int else $14::int end,
        coalesce($10::int, $15::int),
        coalesce($11::bool, $16::bool),
        coalesce($12::text, $17::text),
        case when o.keeps_days and $27::date < $26::date then $26::date end,
        $19::timestamptz,
        $19::timestamptz
    from owner as o
    where o.is_active
        and o.profile_id is not null
        and o.is_confirmed
        and (select count(*) from held) >= 0
        and (select count(*) from before) >= 0
    on conflict (profile_id) do update
    set
        weekday_limit_minutes = case when $6::bool then $7::int else c.weekday_limit_minutes end,
        weekend_limit_minutes = case when $8::bool then $9::int else c.weekend_limit_minutes end,
        reset_hour = coalesce($10::int, c.reset_hour, $15::int),
        educational_exempt = coalesce($11::bool, c.educational_exempt, $16::bool),
        timezone = coalesce($12::text, c.timezone, $17::text),
        day_floor = case when $26::date is null then c.day_floor else excluded.day_floor end,
        updated_at = $19::timestamptz
    where $23::int is null
        or row(
            c.weekday_limit_minutes,
            c.weekend_limit_minutes,
            coalesce(c.reset_hour, $15::int),
            coalesce(c.timezone, $17::text)
        )
        is not distinct from row($21::int, $22::int, $23::int, $24::text)
        and (
            c.day_floor is not distinct from $25::date
            or excluded.id <> ($20::text || '00000000')::uuid
        )
    returning
        c.profile_id, c.weekday_limit_minutes, c.weekend_limit_minutes, c.reset_hour,
        c.educational_exempt, c.timezone, c.created_at, c.updated_at
),
kept as (
    update viewing_time_balances as b
    set limit_minutes = case
        when x.profile_id is null then k.limit_minutes
        else coalesce(x.limit_minutes, -1)
    end
    from changed as c
    cross join held as h
    join unnest($28::date[], $29::int[]) as k (day, limit_minutes) on k.day = h.reset_date
    left join viewing_exceptions as x
        on x.profile_id = c.profile_id and x.day = k.day and x.changes_limit
    where b.id = h.id and h.is_kept and h.is_moved is not true
),
added as (
    insert into viewing_time_balances (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        limit_minutes, updated_at
    )
    select
        ($20::text || lpad(to_hex(1024 + k.number::int), 8, '0'))::uuid,
        c.profile_id,
        k.day,
        0,
        0,
        false,
        case when x.profile_id is null then k.limit_minutes else coalesce(x.limit_minutes, -1) end,
        $19::timestamptz
    from changed as c
    join owner as o on o.is_child
    cross join unnest($28::date[], $29::int[]) with ordinality as k (day, limit_minutes, number)
    left join viewing_exceptions as x
        on x.profile_id = c.profile_id and x.day = k.day and x.changes_limit
    where k.day >= (c.created_at at time zone 'UTC')::date
        and not (o.keeps_days and coalesce(k.day >= $26::date and k.day < $27::date, false))
        and not exists (select from held as h where h.reset_date = k.day)
    on conflict (profile_id, reset_date) do nothing
),
emptied as (
    update viewing_time_balances as b
    set
        used_seconds = 0,
        educational_seconds = 0,
        is_unlimited_override = false,
        extended_minutes = null,
        limit_minutes = 0,
        updated_at = $19::timestamptz
    from changed as c
    cross join held as h
    where b.id = h.id and h.is_moved
),
granted as (
    update time_grants as g
    set reset_date = $27::date
    from changed as c
    join owner as o on o.keeps_days
    where g.profile_id = c.profile_id
        and g.reset_date >= $26::date
        and g.reset_date < $27::date
        and g.undone_at is null
),
skipped as (
    insert into viewing_time_balances (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        limit_minutes, updated_at
    )
    select
        ($20::text || lpad(to_hex(2 + d.number), 8, '0'))::uuid,
        c.profile_id,
        $26::date + d.number,
        0,
        0,
        false,
        0,
        $19::timestamptz
    from changed as c
    join owner as o on o.keeps_days
    cross join generate_series(0, $27::date - $26::date - 1) as d (number)
    where not exists (select from held as h where h.reset_date = $26::date + d.number)
    on conflict (profile_id, reset_date) do nothing
),
moved as (
    insert into viewing_time_balances as b (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        extended_minutes, updated_at
    )
    select
        ($20::text || '00000001')::uuid,
        c.profile_id,
        $27::date,
        sum(coalesce(h.used_seconds, 0))::int,
        sum(coalesce(h.educational_seconds, 0))::int,
        bool_or(coalesce(h.is_unlimited_override, false)),
        nullif(sum(coalesce(h.extended_minutes, 0))::int, 0),
        $19::timestamptz
    from changed as c
    cross join held as h
    where h.is_moved
    group by c.profile_id
    on conflict (profile_id, reset_date) do update
    set
        used_seconds = coalesce(b.used_seconds, 0) + excluded.used_seconds,
        educational_seconds = coalesce(b.educational_seconds, 0) + excluded.educational_seconds,
        is_unlimited_override = b.is_unlimited_override is true or excluded.is_unlimited_override,
        extended_minutes = coalesce(
            b.extended_minutes + excluded.extended_minutes,
            b.extended_minutes,
            excluded.extended_minutes
        ),
        updated_at = excluded.updated_at
),
told as materialized (
    select
        pg_notify(
            'viewing_config_changed', concat_ws(' ', $18::text, $1::uuid::text, c.profile_id::text)
        )::text as notified
    from changed as c
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select $1::uuid, c.profile_id, 'configuration.changed', $19::timestamptz, '{}'
    from changed as c
    left join before as b on true
    where jsonb_build_array(
        c.weekday_limit_minutes,
        c.weekend_limit_minutes,
        c.reset_hour,
        c.educational_exempt,
        c.timezone
    )
    <> coalesce(
        b.members,
        jsonb_build_array($13::int, $14::int, $15::int, $16::bool, $17::text)
    )
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    o.is_strict,
    coalesce(o.is_confirmed, false) as is_confirmed,
    c.weekday_limit_minutes,
    c.weekend_limit_minutes,
    c.reset_hour,
    c.educational_exempt,
    c.timezone,
    c.updated_at,
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
