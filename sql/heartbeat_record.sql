-- Records a batch of heartbeats, at most one for each profile, and tells what became of each.
--
-- $1  profile_ids uuid[]         who watches
-- $2  account_ids uuid[]         whose token came with the beat
-- $3  title_ids uuid[]           what is watched
-- $4  session_ids uuid[]         the session that goes on, or the id made for a new one
-- $5  starts bool[]              true: no session was named, this beat starts one
-- $6  device_ids text[]          of a new session
-- $7  device_types text[]        of a new session
-- $8  paused bool[]              the player stands still
-- $9  days date[]                the viewing day by the cached configuration
-- $10 exempt bool[]              educational titles do not use up the limit
-- $11 marks uuid[]               of the beats' idempotency keys; null: the beat has none
-- $12 renews bool[]              the beat was judged by a configuration that is getting old
-- $13 now timestamptz            the moment of this statement
--
-- row: beats int4[]              positions in the arrays, from 1, in step with the next two
-- row: refusals int4[]           0 recorded, 1 account, 2 profile, 3 title, 4 session unknown,
--                                5 session of another profile, 6 key used on an earlier day
-- row: educational bool[]        the title is educational (null where refused before the title)
-- row: children uuid[]           child profiles with a balance, in step with the next two
-- row: used_seconds int4[]       today's balance after this beat
-- row: overrides bool[]          a parent lifted the limit for today
-- row: renewed int4[]            positions of $12 whose configuration follows, in step with the rest
-- row: weekday_limits int4[]     null is unlimited
-- row: weekend_limits int4[]     null is unlimited
-- row: reset_hours int4[]
-- row: exemptions bool[]
-- row: timezones text[]
--
-- One result row of arrays: a row for each beat costs the driver more than the work itself.
-- A refused beat touches nothing, so a stranger's beat cannot even hold a lock.
-- `held` takes its locks in profile order, the balances are written in profile order: two
-- statements that share profiles wait for each other and never deadlock.
-- The session is locked before its pause is judged, so two instances count one pause once; a
-- new session ends the open ones through a function, because only a function's own statement
-- sees what another transaction committed after this statement began.
-- A paused stretch counts for its first 300 seconds, playing or not: one expression serves both.
-- A beat whose mark the session has kept, or whose session exists though it starts one (the
-- caller made the session's id from the key), has been recorded before: it changes nothing and is
-- answered from the rows as they are. A session keeps its latest 8 marks, in a column without an
-- index.
-- A beat may bring its configuration back: players come more often than a cached configuration
-- lives, and would otherwise cost a second statement every other time. The others look for a
-- null key, which is nowhere and costs no page.
-- Balances add in the upsert itself (`uq_vtb_profile_date` decides), never read and write back.
-- A balance's id is made from what is unique about it: a random one would be drawn for every
-- beat and thrown away by all but the day's first.
with asked as materialized (
    select
        b.beat,
        b.profile_id,
        b.title_id,
        b.session_id,
        b.starts,
        b.device_id,
        b.device_type,
        b.paused,
        b.day,
        b.mark,
        p.is_kids,
        t.is_educational,
        t.is_educational and b.exempt as is_exempt,
        c.profile_id is not null as is_renewed,
        c.weekday_limit_minutes,
        c.weekend_limit_minutes,
        c.reset_hour,
        c.educational_exempt,
        c.timezone,
        case
            when u.is_active is not true then 1
            when p.id is null then 2
            when t.id is null then 3
            else 0
        end as refusal
    from unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bool[], $6::text[], $7::text[],
        $8::bool[], $9::date[], $10::bool[], $11::uuid[], $12::bool[]
    ) with ordinality as b (
        profile_id, account_id, title_id, session_id, starts, device_id, device_type,
        paused, day, exempt, mark, renews, beat
    )
    left join users as u on u.id = b.account_id
    left join profiles as p on p.id = b.profile_id and p.user_id = b.account_id
    left join titles as t on t.id = b.title_id
    left join viewing_time_configs as c on c.profile_id = case when b.renews then p.id end
    order by b.profile_id
),
held as materialized (
    select
        a.beat,
        a.profile_id,
        a.title_id,
        a.session_id,
        a.starts and s.id is null as starts,
        a.device_id,
        a.device_type,
        a.paused,
        a.day,
        a.mark,
        a.is_kids,
        a.is_educational,
        a.is_exempt,
        a.is_renewed,
        a.weekday_limit_minutes,
        a.weekend_limit_minutes,
        a.reset_hour,
        a.educational_exempt,
        a.timezone,
        case
            when a.refusal <> 0 then a.refusal
            when a.starts and s.started_at < $13::timestamptz - interval '1 day' then 6
            when a.starts or s.id is not null then 0
            when exists (select from viewing_sessions as x where x.id = a.session_id) then 5
            else 4
        end as refusal,
        s.id is not null and (a.starts or coalesce(a.mark = any (s.recent_marks), false))
            as is_repeated,
        case
            when a.starts and s.id is not null or a.mark = any (s.recent_marks) then 0
            when s.paused_at is null or $13::timestamptz - s.paused_at <= interval '300 seconds'
            then 30
            else 0
        end as seconds,
        case
            when a.starts and a.refusal = 0 and s.id is null
            then viewing_sessions_end_open(a.profile_id, $13::timestamptz)
        end as ended
    from asked as a
    left join lateral (
        select s.id, s.started_at, s.paused_at, s.recent_marks
        from viewing_sessions as s
        where a.refusal = 0
            and s.id = a.session_id
            and s.profile_id = a.profile_id
        for no key update
    ) as s on true
),
continued as (
    update viewing_sessions as s
    set
        last_heartbeat_at = $13::timestamptz,
        total_seconds = s.total_seconds + h.seconds,
        paused_at = case when h.paused then coalesce(s.paused_at, $13::timestamptz) end,
        recent_marks = case
            when h.mark is null then s.recent_marks
            else (array_prepend(h.mark, s.recent_marks))[1:8]
        end
    from held as h
    where h.refusal = 0 and not h.starts and not h.is_repeated and s.id = h.session_id
),
started as (
    insert into viewing_sessions (
        id, profile_id, title_id, device_id, device_type, is_educational, started_at,
        last_heartbeat_at, ended_at, total_seconds, paused_at, recent_marks
    )
    select
        h.session_id,
        h.profile_id,
        h.title_id,
        h.device_id,
        h.device_type,
        h.is_educational,
        $13::timestamptz,
        $13::timestamptz,
        null,
        h.seconds,
        case when h.paused then $13::timestamptz end,
        case when h.mark is not null then array[h.mark] end
    from held as h
    where h.refusal = 0 and h.starts
),
balance as (
    insert into viewing_time_balances as v (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        updated_at
    )
    select
        md5(h.profile_id::text || h.day::text)::uuid,
        h.profile_id,
        h.day,
        case when h.is_exempt then 0 else h.seconds end,
        case when h.is_exempt then h.seconds else 0 end,
        false,
        $13::timestamptz
    from held as h
    where h.refusal = 0 and h.is_kids
    order by h.profile_id
    on conflict (profile_id, reset_date) do update
    set
        used_seconds = v.used_seconds + excluded.used_seconds,
        educational_seconds = v.educational_seconds + excluded.educational_seconds,
        updated_at = excluded.updated_at
    returning v.profile_id, v.used_seconds, v.is_unlimited_override
)
select
    r.beats,
    r.refusals,
    r.educational,
    c.children,
    c.used_seconds,
    c.overrides,
    r.renewed,
    r.weekday_limits,
    r.weekend_limits,
    r.reset_hours,
    r.exemptions,
    r.timezones
from (
    select
        array_agg(h.beat::int4) as beats,
        array_agg(h.refusal) as refusals,
        array_agg(h.is_educational) as educational,
        array_agg(h.beat::int4) filter (where h.is_renewed) as renewed,
        array_agg(h.weekday_limit_minutes) filter (where h.is_renewed) as weekday_limits,
        array_agg(h.weekend_limit_minutes) filter (where h.is_renewed) as weekend_limits,
        array_agg(h.reset_hour) filter (where h.is_renewed) as reset_hours,
        array_agg(h.educational_exempt) filter (where h.is_renewed) as exemptions,
        array_agg(h.timezone::text) filter (where h.is_renewed) as timezones
    from held as h
) as r
cross join (
    select
        array_agg(b.profile_id) as children,
        array_agg(b.used_seconds) as used_seconds,
        array_agg(b.is_unlimited_override) as overrides
    from balance as b
) as c
