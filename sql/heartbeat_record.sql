-- Records a batch of heartbeats, at most one for each profile, and returns the outcome of each.
--
-- $1  profile_ids uuid[]         of the viewers
-- $2  account_ids uuid[]         of the tokens
-- $3  title_ids uuid[]           of the watched titles
-- $4  session_ids uuid[]         of the session to continue, or for a new one
-- $5  starts bool[]              true: the beat starts a session
-- $6  device_ids text[]          of a new session; null: the session continues
-- $7  device_types text[]        of a new session; null: the session continues
-- $8  paused bool[]              the player is paused
-- $9  days date[]                the viewing day by the cached configuration; null: not cached
-- $10 exempt bool[]              educational titles do not count against the limit; without a day the
--                                stored configuration decides, if it does
-- $11 keys bytea[]               8 bytes of the idempotency key's hash, then 2 of the request's;
--                                null: the beat has no key
-- $12 renews bool[]              return the policy, to renew the cache
-- $13 begin_seconds int8[]       from 1970 to the begin of the viewing day
-- $14 usage_from date[]          first day of the balances that the policy needs; null: none needed;
--                                -infinity: the days of a week, if the stored schedule needs them
-- $15 exclusive bool[]           refuse the beat if another device has ended its session
-- $16 announce_from int4[]       credited seconds from which the beat may announce something
-- $17 rules text[]               JSON, see viewing_announce in migration 0037; null: it cannot
-- $18 id_prefix text             24 hexadecimal digits, unique for this statement, sorted by time
-- $19 now timestamptz            time of this statement
-- $20 lock_timeout text          of this statement
-- $21 by_clock bool              count the seconds since the profile's latest counting beat, at most 30
-- $22 guesses text[]             zone and reset hour, joined by a space; the first are the defaults;
--                                null (like the next two): every beat has a day
-- $23 guessed_days date[]        the viewing days that they have now, in step
-- $24 guessed_begins int8[]      from 1970 to the begins of these days, in seconds, in step
--
-- row: beats int4[]              positions in the arrays, from 1, in step with the next two
-- row: refusals int4[]           0 recorded, 1 account, 2 profile, 3 title, 4 session unknown,
--                                5 session of another profile, 6 key used for another request,
--                                7 session ended by another device, 8 the viewing day is unknown,
--                                or the rules are, and something may have to be announced
-- row: educational bool[]        the title is educational (null where refused before the title)
-- row: children uuid[]           child profiles, in step with the next two
-- row: used_seconds int4[]       used in the viewing day, after this beat
-- row: overrides bool[]          a parent has lifted the limit for today
-- row: renewed int4[]            positions with $12; their configurations follow, in step
-- row: weekday_limits int4[]     null is unlimited
-- row: weekend_limits int4[]     null is unlimited
-- row: reset_hours int4[]        null (like the next two): adult without configuration
-- row: exemptions bool[]
-- row: timezones text[]
-- row: policies text[]           JSON, see viewing_config_load; null: the configuration is all
-- row: are_children bool[]
-- row: extended uuid[]           children whose day was extended, in step with the next
-- row: extended_minutes int4[]
-- row: playing int4[]            positions with $14, in step with the next
-- row: session_seconds int4[]    counted in the open session, if it plays the title and counts
-- row: past int4[]               positions with $14: a place for each earlier balance, in step with
--                                the next five
-- row: past_days date[]
-- row: past_used_seconds int4[]
-- row: past_overrides bool[]
-- row: past_extended_minutes int4[]
-- row: past_limit_minutes int4[]  null: not kept
-- row: events int                number that were written; null: none was due
--
-- Returns one row of arrays: a row for each beat would cost the driver more than the work itself.
-- Arrays are read by subscript, except the one that makes the rows: `unnest` stores each array that it
-- takes as rows, and the device is needed for new sessions only.
-- What most batches do not need is in functions (migration 0028): the server opens every table that a
-- statement names, also if no row is read. They are strict, so they are not called with a null. In a
-- `from` clause each call would have a cost of its own; `offset 0` keeps it one call for all fields.
-- A refused beat writes and locks nothing, so a stranger's beat cannot hold a lock.
-- The lock time-out is set for this transaction only: it is shorter for a batch than for a single
-- beat, and behind a pooler the connection has no setting of the service.
-- Lock order: `locked` locks sessions in profile order, then balances are written in profile order.
-- So two statements that share profiles wait for each other and do not deadlock.
-- With `by_clock` a function counts (migration 0025), for beats that count and for no others. It locks
-- the profile's clock after the session: `ended`, which locks the open sessions, is therefore before
-- `seconds` in the select list, which the server evaluates from left to right.
-- The session is locked before its pause is read, so two instances count one pause once. A new
-- session ends the open ones through a function (migration 0037), because only a statement inside a function sees
-- rows that another transaction has committed since this statement began.
-- Another device has ended a session if the profile has a session of another device that started at
-- that moment (`viewing_session_begin`). If the other's clock was behind, the session ended at its
-- own start, and the other one is open. Only beats with `exclusive` look for it, in an index by start
-- and in the one of open sessions.
-- The first 300 seconds of a pause count.
-- A session keeps the keys of its latest 100 beats, newest first, in a column without an index. A
-- beat is a repetition if its key is among them, or if it starts a session that exists (the id of
-- the session is derived from the key). It writes nothing and returns the current state. The hash
-- of the request is compared too, so a key that is used for another request is refused.
-- A beat can return its policy, which renews the cached one. By default that expires after two beats,
-- and a beat without a cached policy is dearer. A child without a configuration is not renewed, because
-- loading it stores the defaults. Beats without `renews` search for a null key, which reads no page.
-- A beat whose policy is not cached is sent without its day. The statement looks for the day of the
-- stored zone and reset hour among the guesses, because only service/viewing/rules.py computes viewing
-- days. It refuses the beat if none has it, if the profile's first day is later, and if a child has no
-- configuration, or may have to be warned or blocked: only a beat that has its rules can announce that.
-- Then it returns the stored policy, and the beat comes again with its day.
-- Only policies with a weekly limit, roll-over or time to finish a title set $14; other beats read no
-- balance except their day's.
-- A session that continues on a later viewing day keeps the time of its latest beat and what it has
-- counted by then, so that reports divide it between its days.
-- The balances are written and read by a function (migration 0037), which adds to them; it never writes
-- a value that was read before. Beats of 0 seconds read their balance.
-- Events of warnings and blocks are written by a function, for beats that are due only, after their
-- balances. A device that ends the session of another one writes an event too.
-- The id of a new balance is the prefix and the beat's position: unique, sorted by time so that new
-- rows share index pages, and cheaper than a random id.
-- One plan, whatever the statistics say: each table is reached from the rows before it, by the index
-- of one key. `= any` of one element cannot be a hash or a merge join, and `is not distinct from` uses
-- no index, so the planner cannot choose another. The connection has `enable_seqscan = off`, because a
-- plan is kept: one that reads a whole table while it is empty would read all of it when it has grown.
with beats as materialized (
    select
        b.beat,
        b.profile_id,
        b.title_id,
        b.session_id,
        b.starts,
        b.paused,
        coalesce(b.day, ($23::date[])[g.guess]) as day,
        b.key,
        to_timestamp(coalesce(b.begin_seconds, ($24::int8[])[g.guess])) as begins,
        case when b.day is not null or p.is_kids then b.usage_from end as usage_from,
        b.exclusive,
        p.is_kids,
        coalesce(t.is_educational, false) as is_educational,
        coalesce(t.is_educational, false)
            and coalesce(case when b.day is null then c.educational_exempt end, b.exempt)
            as is_exempt,
        b.renews and (c.profile_id is not null or p.id is not null and p.is_kids is not true)
            as is_renewed,
        c.weekday_limit_minutes,
        c.weekend_limit_minutes,
        c.reset_hour,
        c.educational_exempt,
        c.timezone,
        c.day_floor,
        case
            when u.is_active is not true then 1
            when p.id is null then 2
            when t.id is null then 3
            when b.day is null
                and (
                    g.guess is null
                    or c.day_floor > ($23::date[])[g.guess]
                    or p.is_kids and viewing_is_close(
                        p.id,
                        ($23::date[])[g.guess],
                        least(c.weekday_limit_minutes, c.weekend_limit_minutes),
                        $19::timestamptz
                    )
                )
            then 8
            else 0
        end as refusal
    from (
        select
            g.beat::int4 as beat,
            g.profile_id,
            ($2::uuid[])[g.beat::int4] as account_id,
            ($3::uuid[])[g.beat::int4] as title_id,
            ($4::uuid[])[g.beat::int4] as session_id,
            ($5::bool[])[g.beat::int4] as starts,
            ($8::bool[])[g.beat::int4] as paused,
            ($9::date[])[g.beat::int4] as day,
            ($10::bool[])[g.beat::int4] as exempt,
            ($11::bytea[])[g.beat::int4] as key,
            ($12::bool[])[g.beat::int4] as renews,
            ($13::int8[])[g.beat::int4] as begin_seconds,
            ($14::date[])[g.beat::int4] as usage_from,
            ($15::bool[])[g.beat::int4] as exclusive
        from unnest($1::uuid[]) with ordinality as g (profile_id, beat)
    ) as b
    left join users as u on u.id = any (array[b.account_id])
    left join profiles as p
        on p.id = any (array[b.profile_id]) and p.user_id is not distinct from b.account_id
    left join titles as t on t.id = any (array[b.title_id])
    left join viewing_time_configs as c
        on c.profile_id = any (array[case when b.renews then p.id end])
    cross join lateral (
        select
            case
                when b.day is not null then null
                when c.profile_id is not null
                then array_position($22::text[], c.timezone || ' ' || c.reset_hour)
                when p.is_kids is not true then 1
            end as guess
    ) as g
    where (select set_config('lock_timeout', $20::text, true)) is not null
    order by b.profile_id
),
locked as materialized (
    select
        a.beat,
        a.profile_id,
        a.title_id,
        a.session_id,
        a.starts and s.id is null as starts,
        a.paused,
        a.day,
        a.key,
        a.begins,
        a.usage_from,
        a.is_kids,
        a.is_educational,
        a.is_exempt,
        a.is_renewed,
        a.weekday_limit_minutes,
        a.weekend_limit_minutes,
        a.reset_hour,
        a.educational_exempt,
        a.timezone,
        a.day_floor,
        case
            when a.refusal <> 0 then a.refusal
            when s.earlier <> a.key then 6
            when a.starts and s.started_at < $19::timestamptz - interval '1 day' then 6
            when s.is_displaced then 7
            when a.starts or s.id is not null then 0
            when exists (
                select
                from viewing_sessions as x
                where x.id = any (array[a.session_id]) and x.profile_id <> a.profile_id
            )
            then 5
            else 4
        end as refusal,
        s.id is not null and (a.starts or s.earlier is not null) as is_repeated,
        case
            when a.starts and a.refusal = 0 and s.id is null
            then viewing_session_begin(
                a.profile_id, $19::timestamptz, ($6::text[])[a.beat]
            )
        end as ended,
        case
            when a.starts and s.id is not null or s.earlier is not null then 0
            when s.paused_at is null or $19::timestamptz - s.paused_at <= interval '300 seconds'
            then case
                when $21::bool
                    and a.refusal = 0
                    and (a.starts or s.id is not null)
                    and s.is_displaced is not true
                then viewing_clock_count(a.profile_id, $19::timestamptz, a.begins)
                else 30
            end
            else 0
        end as seconds,
        case
            when a.is_exempt then null
            when s.id is null then 0
            when s.ended_at is null and s.title_id = a.title_id then coalesce(s.total_seconds, 0)
        end as counted_before
    from beats as a
    left join lateral (
        select
            s.id,
            s.started_at,
            s.paused_at,
            s.ended_at,
            s.title_id,
            s.total_seconds,
            substring(
                s.recent_keys
                from nullif(position(substring(a.key from 1 for 8) in s.recent_keys), 0)
                for 10
            ) as earlier,
            a.exclusive
                and s.ended_at is not null
                and viewing_session_is_displaced(
                    s.profile_id, s.device_id::text, s.started_at, s.ended_at
                ) as is_displaced
        from viewing_sessions as s
        where a.refusal = 0
            and s.id = any (array[a.session_id])
            and s.profile_id is not distinct from a.profile_id
        for no key update
    ) as s on true
),
continued as (
    update viewing_sessions as s
    set
        last_heartbeat_at = greatest($19::timestamptz, s.started_at),
        total_seconds = coalesce(s.total_seconds, 0) + h.seconds,
        paused_at = case when h.paused then coalesce(s.paused_at, $19::timestamptz) end,
        recent_keys = case
            when h.key is null then s.recent_keys
            else substring(h.key || coalesce(s.recent_keys, '') from 1 for 1000)
        end,
        earlier_days = case
            when s.last_heartbeat_at >= h.begins then s.earlier_days
            else viewing_earlier_parts(
                s.earlier_days, coalesce(s.total_seconds, 0)::int, s.last_heartbeat_at
            )
        end
    from locked as h
    where h.refusal = 0
        and not h.starts
        and not h.is_repeated
        and s.id = any (array[h.session_id])
),
started as (
    insert into viewing_sessions (
        id, profile_id, title_id, device_id, device_type, is_educational, started_at,
        last_heartbeat_at, ended_at, total_seconds, paused_at, recent_keys
    )
    select
        h.session_id,
        h.profile_id,
        h.title_id,
        ($6::text[])[h.beat],
        ($7::text[])[h.beat],
        h.is_educational,
        $19::timestamptz,
        $19::timestamptz,
        null,
        h.seconds,
        case when h.paused then $19::timestamptz end,
        h.key
    from locked as h
    where h.refusal = 0 and h.starts
)
select
    r.beats,
    r.refusals,
    r.educational,
    (f.today).children,
    (f.today).used_seconds,
    (f.today).overrides,
    r.renewed,
    r.weekday_limits,
    r.weekend_limits,
    r.reset_hours,
    r.exemptions,
    r.timezones,
    viewing_policies(r.renewed_children, r.renewed_days, r.day_floors, $19::timestamptz) as policies,
    r.are_children,
    (f.today).extended,
    (f.today).extended_minutes,
    r.playing,
    r.session_seconds,
    (f.week).past,
    (f.week).past_days,
    (f.week).past_used_seconds,
    (f.week).past_overrides,
    (f.week).past_extended_minutes,
    (f.week).past_limit_minutes,
    case
        when (f.today).due is not null
        then viewing_announce(
            (f.today).due, r.children_beats, r.children, r.children_days, (f.today).children,
            (f.today).used_seconds, (f.today).overrides, (f.today).extended,
            (f.today).extended_minutes, r.playing, r.session_seconds, (f.week).past,
            (f.week).past_days, (f.week).past_used_seconds, (f.week).past_overrides,
            (f.week).past_extended_minutes, (f.week).past_limit_minutes, $17::text[],
            $19::timestamptz
        )
    end as events
from (
    select
        array_agg(h.beat) as beats,
        array_agg(h.refusal) as refusals,
        array_agg(h.is_educational) as educational,
        array_agg(h.beat) filter (where h.is_renewed) as renewed,
        array_agg(h.weekday_limit_minutes) filter (where h.is_renewed) as weekday_limits,
        array_agg(h.weekend_limit_minutes) filter (where h.is_renewed) as weekend_limits,
        array_agg(h.reset_hour) filter (where h.is_renewed) as reset_hours,
        array_agg(h.educational_exempt) filter (where h.is_renewed) as exemptions,
        array_agg(h.timezone::text) filter (where h.is_renewed) as timezones,
        array_agg(case when h.is_kids then h.profile_id end) filter (where h.is_renewed)
            as renewed_children,
        array_agg(coalesce(h.day, ($19::timestamptz at time zone 'UTC')::date))
            filter (where h.is_renewed) as renewed_days,
        array_agg(h.day_floor) filter (where h.is_renewed) as day_floors,
        array_agg(h.is_kids) filter (where h.is_renewed) as are_children,
        array_agg(h.beat) filter (where h.usage_from is not null) as playing,
        array_agg(h.profile_id) filter (where h.usage_from is not null) as players,
        array_agg(h.usage_from) filter (where h.usage_from is not null) as firsts,
        array_agg(h.day) filter (where h.usage_from is not null) as days,
        array_agg(coalesce(h.counted_before + h.seconds, 0)) filter (where h.usage_from is not null)
            as session_seconds,
        array_agg(h.profile_id) filter (where h.refusal = 0 and h.is_kids) as children,
        array_agg(h.day) filter (where h.refusal = 0 and h.is_kids) as children_days,
        array_agg(h.seconds) filter (where h.refusal = 0 and h.is_kids) as children_seconds,
        array_agg(h.is_exempt) filter (where h.refusal = 0 and h.is_kids) as children_exempt,
        array_agg(h.beat) filter (where h.refusal = 0 and h.is_kids) as children_beats,
        array_agg(($16::int4[])[h.beat]) filter (where h.refusal = 0 and h.is_kids)
            as announce_from
    from locked as h
) as r
cross join lateral (
    select
        viewing_balances_add(
            r.children, r.children_days, r.children_seconds, r.children_exempt, r.children_beats,
            r.announce_from, $18::text, $19::timestamptz
        ) as today,
        viewing_past_balances(r.playing, r.players, r.firsts, r.days) as week
    offset 0
) as f
