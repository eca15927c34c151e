-- Sets the present members of a schedule; the others stay, or get their defaults.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 has_proof bool                the request has a valid PIN token
-- $4 pin_mark text                 fingerprint of the PIN in it; null: any
-- $5 sets_daily bool               set the next value
-- $6 daily_limits jsonb            minutes by day; null: no limits by day
-- $7 downtime jsonb                windows; null: unchanged
-- $8 sets_weekly bool              set the next value
-- $9 weekly_limit_minutes int      null is unlimited
-- $10 week_starts_on text          null: unchanged
-- $11 rollover_max_minutes int     null: unchanged
-- $12 finish_minutes int           null: unchanged
-- $13 past_days date[]             days before today whose limit is to be kept
-- $14 past_limits int[]            in step with $13; -1 is unlimited
-- $15 origin text                  id of the change, for the notification
-- $16 now timestamptz
-- $17 id_prefix text               24 hexadecimal digits, new for each statement, that sort by time
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: daily_limits jsonb          the stored schedule; null: nothing was done
-- row: downtime jsonb
-- row: weekly_limit_minutes int
-- row: week_starts_on text
-- row: rollover_max_minutes int
-- row: finish_minutes int
-- row: updated_at timestamptz
-- row: is_confirmed bool           the PIN is the one in $4, and a strict account has a proof
-- row: notified text               empty if the change was stored; the result of pg_notify
-- row: listeners text[]            instances that listen; the caller waits for them
--
-- No row: the account is unknown.
-- One upsert on the primary key, so concurrent changes of different members are all kept.
-- A new limit is not that of the days before: their balances keep the limit that was in force, unless
-- an earlier change has already kept it, or the day has an exception, which stays in its own table.
-- A day without a balance gets one, unless it is before the child's configuration.
-- They are locked after the schedule and in the order of their days. A heartbeat locks only the
-- balance of the current day, so it waits for none of them.
-- Writes schedule.changed if a member is another one than before; without a stored schedule
-- the defaults were in force. `before` is locked, so of two equal changes of a stored schedule at
-- once one is announced.
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
    select jsonb_build_array(
        s.daily_limits,
        s.downtime,
        s.weekly_limit_minutes,
        s.week_starts_on,
        s.rollover_max_minutes,
        s.finish_minutes
    ) as members
    from viewing_schedules as s
    where s.profile_id = (
        select o.profile_id from owner as o where o.is_active and o.is_confirmed
    )
    for no key update
),
changed as (
    insert into viewing_schedules as s (
        profile_id, daily_limits, downtime, weekly_limit_minutes, week_starts_on,
        rollover_max_minutes, finish_minutes, updated_at
    )
    select
        o.profile_id,
        case when $5::bool then $6::jsonb end,
        coalesce($7::jsonb, '[]'),
        case when $8::bool then $9::int end,
        coalesce($10::text, 'mon'),
        coalesce($11::int, 0),
        coalesce($12::int, 0),
        $16::timestamptz
    from owner as o
    where o.is_active
        and o.profile_id is not null
        and o.is_confirmed
        and (select count(*) from before) >= 0
    on conflict (profile_id) do update
    set
        daily_limits = case when $5::bool then $6::jsonb else s.daily_limits end,
        downtime = coalesce($7::jsonb, s.downtime),
        weekly_limit_minutes = case when $8::bool then $9::int else s.weekly_limit_minutes end,
        week_starts_on = coalesce($10::text, s.week_starts_on),
        rollover_max_minutes = coalesce($11::int, s.rollover_max_minutes),
        finish_minutes = coalesce($12::int, s.finish_minutes),
        updated_at = $16::timestamptz
    returning
        s.profile_id, s.daily_limits, s.downtime, s.weekly_limit_minutes, s.week_starts_on,
        s.rollover_max_minutes, s.finish_minutes, s.updated_at
),
past as (
    select b.id, ($14::int[])[array_position($13::date[], b.reset_date)] as limit_minutes
    from viewing_time_balances as b
    where b.profile_id = (select c.profile_id from changed as c)
        and b.reset_date = any ($13::date[])
        and b.limit_minutes is null
        and not exists (
            select from viewing_exceptions as e
            where e.profile_id = b.profile_id and e.day = b.reset_date and e.changes_limit
        )
    order by b.reset_date
    for no key update of b
),
kept as (
    update viewing_time_balances as b
    set limit_minutes = p.limit_minutes
    from past as p
    where b.id = p.id
),
added as (
    insert into viewing_time_balances (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        limit_minutes, updated_at
    )
    select
        ($17::text || lpad(to_hex(f.number::int), 8, '0'))::uuid,
        c.profile_id,
        f.day,
        0,
        0,
        false,
        f.limit_minutes,
        $16::timestamptz
    from changed as c
    join profiles as p on p.id = c.profile_id and p.is_kids
    join viewing_time_configs as g on g.profile_id = c.profile_id
    cross join unnest($13::date[], $14::int[]) with ordinality as f (day, limit_minutes, number)
    where f.day >= (g.created_at at time zone 'UTC')::date
        and not exists (
            select from viewing_time_balances as b
            where b.profile_id = c.profile_id and b.reset_date = f.day
        )
        and not exists (
            select from viewing_exceptions as e
            where e.profile_id = c.profile_id and e.day = f.day and e.changes_limit
        )
    on conflict (profile_id, reset_date) do nothing
),
told as materialized (
    select
        pg_notify(
            'viewing_config_changed', concat_ws(' ', $15::text, $1::uuid::text, c.profile_id::text)
        )::text as notified
    from changed as c
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select $1::uuid, c.profile_id, 'schedule.changed', $16::timestamptz, '{}'
    from changed as c
    left join before as b on true
    where jsonb_build_array(
        c.daily_limits,
        c.downtime,
        c.weekly_limit_minutes,
        c.week_starts_on,
        c.rollover_max_minutes,
        c.finish_minutes
    )
    <> coalesce(b.members, '[null, [], null, "mon", 0, 0]')
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    c.daily_limits,
    c.downtime,
    c.weekly_limit_minutes,
    c.week_starts_on,
    c.rollover_max_minutes,
    c.finish_minutes,
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
