-- Records a batch of heartbeats as heartbeat_record does, with statements that Citus can route.
--
-- Parameters and row are those of heartbeat_record, whose header explains the rules; the same number
-- gives the same answer and leaves the same rows (tests/viewing/test_heartbeat_function.py). The
-- profiles must be in ascending order.
--
-- `migrate` installs it where the database has the extension. There each table of a cell is one shard.
-- A statement on one table needs no planning by Citus and keeps its plan: on the node that has the cell
-- it costs 20 µs more than without Citus. heartbeat_record inserts in a part of a `with` clause, which
-- Citus cannot route.
--
-- `width_bucket` finds the position of a row's profile among the profiles of the batch, which are in
-- order. That is a binary search, and the arrays are read by subscript, so the work grows with the
-- batch and not with its square.
--
-- Lock order: profiles that start a session, sessions, clocks, balances, and each kind in the order of
-- profiles, balances of several days day by day. A kind is locked as a whole before the next one,
-- also the sessions that a new session ends, so two batches wait for each other and do not deadlock.
-- The profile takes the place of the advisory lock of 0004, which belongs to one node and would not
-- move with the cell.
-- Without bitmap scans an index returns the rows in its order, so an update locks them in it too.
--
-- On a node that has not the cell it fails as on a standby, and the service connects to the one that
-- has it. A move that begins during the statement waits for its end, or the statement for that of the
-- move, after which Citus sends the rest of it to the new node.
--
-- Each statement has a snapshot of its own. After the lock of the profile, the session that another
-- instance has just started is visible.
--
-- Few beats call viewing_announce and viewing_session_is_displaced, which read several tables. Citus
-- plans such a statement at each call, with its values, so it must not have `force_generic_plan`.
create or replace function viewing_heartbeats(
    profile_ids uuid[], account_ids uuid[], title_ids uuid[], session_ids uuid[], starts bool[],
    device_ids text[], device_types text[], paused bool[], days date[], exempt bool[],
    keys bytea[], renews bool[], begin_seconds int8[], usage_from date[], exclusive bool[],
    announce_from int[], rules text[], id_prefix text, at timestamptz, lock_time_out text,
    by_clock bool, guesses text[], guessed_days date[], guessed_begins int8[],
    out beats int[], out refusals int[], out educational bool[], out children uuid[],
    out used_seconds int[], out overrides bool[], out renewed int[], out weekday_limits int[],
    out weekend_limits int[], out reset_hours int[], out exemptions bool[], out timezones text[],
    out policies text[], out are_children bool[], out extended uuid[], out extended_minutes int[],
    out playing int[], out session_seconds int[], out past int[], out past_days date[],
    out past_used_seconds int[], out past_overrides bool[], out past_extended_minutes int[],
    out past_limit_minutes int[], out events int
)
language plpgsql
volatile
set search_path from current
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = auto
as $$
declare
    r record;
    day_read record;
    i int;
    number int;
    gap numeric;
    profile uuid;
    first_day date;
    last_day date;
    earlier bytea;
    is_displaced bool;
    -- Accounts and titles, in the order of their ids.
    active uuid[];
    known uuid[];
    lessons bool[];
    -- In step with the beats.
    kids bool[] := array_fill(null::bool, array[cardinality(profile_ids)]);
    configured bool[] := kids;
    closed bool[] := kids;
    stored bool[] := kids;
    begun bool[] := kids;
    clocked bool[] := kids;
    is_uncached bool[] := kids;
    lifted bool[] := kids;
    seconds int[] := array_fill(30, array[cardinality(profile_ids)]);
    used int[] := array_fill(null::int, array[cardinality(profile_ids)]);
    before int[] := used;
    added int[] := used;
    limits int[] := used;
    weekly_limits int[] := used;
    in_week int[] := used;
    counted_to timestamptz[];
    begins timestamptz[] := array_fill(null::timestamptz, array[cardinality(profile_ids)]);
    wanted uuid[] := array_fill(null::uuid, array[cardinality(profile_ids)]);
    parts jsonb[];
    schedules json[];
    exceptions json[];
    locks timestamptz[];
    -- Lists.
    renewing uuid[];
    renewing_children uuid[];
    uncached uuid[];
    floors date[];
    starting uuid[];
    timed uuid[];
    open_ids uuid[];
    open_ids_found uuid[];
    open_places int[];
    ending uuid[];
    displaced uuid[];
    displaced_places int[];
    continued uuid[];
    players uuid[];
    weekly uuid[];
    child_ids uuid[];
    child_days date[];
    child_places int[];
    due int[];
begin
    execute format('set local lock_timeout = %L', lock_time_out);

    if current_setting('citus.version', true) is not null then
        perform
        from pg_dist_shard as s
        join pg_dist_placement as p on p.shardid = s.shardid
        join pg_dist_local_group as g on g.groupid = p.groupid
        where s.logicalrelid = 'users'::regclass;
        if not found then
            raise exception 'the cell is on another node' using errcode = '25006';
        end if;
    end if;

    select array_agg(u.id order by u.id)
    into active
    from users as u
    where u.id = any (account_ids) and u.is_active;

    for r in
        select p.id, p.user_id, p.is_kids from profiles as p where p.id = any (profile_ids)
    loop
        i := width_bucket(r.id, profile_ids);
        if r.user_id is not distinct from account_ids[i] then
            kids[i] := coalesce(r.is_kids, false);
            if renews[i] then
                renewing := renewing || r.id;
                if kids[i] then
                    renewing_children := renewing_children || r.id;
                end if;
            end if;
        end if;
    end loop;

    select array_agg(t.id order by t.id), array_agg(coalesce(t.is_educational, false) order by t.id)
    into known, lessons
    from titles as t
    where t.id = any (title_ids);

    if renewing is not null then
        for r in
            select
                c.profile_id, c.weekday_limit_minutes, c.weekend_limit_minutes, c.reset_hour,
                c.educational_exempt, c.timezone, c.day_floor
            from viewing_time_configs as c
            where c.profile_id = any (renewing)
        loop
            i := width_bucket(r.profile_id, profile_ids);
            configured[i] := true;
            if days[i] is null then
                number := array_position(guesses, r.timezone || ' ' || r.reset_hour);
                days[i] := guessed_days[number];
                begin_seconds[i] := coalesce(begin_seconds[i], guessed_begins[number]);
                exempt[i] := coalesce(r.educational_exempt, exempt[i]);
                usage_from[i] := case when kids[i] then usage_from[i] end;
                closed[i] := number is null or coalesce(r.day_floor > days[i], false);
                if kids[i] then
                    uncached := uncached || r.profile_id;
                    is_uncached[i] := true;
                    limits[i] := least(r.weekday_limit_minutes, r.weekend_limit_minutes);
                    first_day := least(first_day, days[i] - 6);
                    last_day := greatest(last_day, days[i]);
                end if;
            end if;
            renewed := renewed || i;
            are_children := are_children || kids[i];
            weekday_limits := weekday_limits || r.weekday_limit_minutes;
            weekend_limits := weekend_limits || r.weekend_limit_minutes;
            reset_hours := reset_hours || r.reset_hour;
            exemptions := exemptions || r.educational_exempt;
            timezones := timezones || r.timezone::text;
            floors := floors || r.day_floor;
        end loop;
    end if;

    if renewing_children is not null then
        for r in
            select
                z.profile_id,
                z.daily_limits,
                z.downtime,
                z.weekly_limit_minutes,
                json_build_object(
                    'daily_limits', z.daily_limits,
                    'downtime', z.downtime,
                    'weekly_limit_minutes', z.weekly_limit_minutes,
                    'week_starts_on', z.week_starts_on,
                    'rollover_max_minutes', z.rollover_max_minutes,
                    'finish_minutes', z.finish_minutes
                ) as schedule
            from viewing_schedules as z
            where z.profile_id = any (renewing_children)
        loop
            i := width_bucket(r.profile_id, profile_ids);
            schedules[i] := r.schedule;
            if is_uncached[i] then
                limits[i] := least(
                    limits[i],
                    (select min(d.value::int) from jsonb_each_text(r.daily_limits) as d)
                );
                weekly_limits[i] := r.weekly_limit_minutes;
                closed[i] := closed[i] or coalesce(jsonb_array_length(r.downtime) > 0, false);
            end if;
        end loop;
        for r in
            select
                x.profile_id,
                json_agg(
                    json_build_array(x.day, x.changes_limit, x.limit_minutes, x.lifts_downtime)
                    order by x.day
                ) as days,
                min(x.limit_minutes) filter (
                    where x.day = days[width_bucket(x.profile_id, profile_ids)]
                ) as today
            from viewing_exceptions as x
            where x.profile_id = any (renewing_children)
                and x.day >= coalesce(
                    days[width_bucket(x.profile_id, profile_ids)], (at at time zone 'UTC')::date
                ) - 8
            group by x.profile_id
        loop
            i := width_bucket(r.profile_id, profile_ids);
            exceptions[i] := r.days;
            limits[i] := least(limits[i], r.today);
        end loop;
        for r in
            select l.profile_id, l.locked_until
            from viewing_locks as l
            where l.profile_id = any (renewing_children)
        loop
            i := width_bucket(r.profile_id, profile_ids);
            locks[i] := r.locked_until;
            if is_uncached[i] then
                closed[i] := closed[i] or r.locked_until > at;
            end if;
        end loop;
    end if;

    -- As viewing_is_close of 0037 for each child.
    if uncached is not null then
        for r in
            select v.profile_id, v.reset_date, v.used_seconds
            from viewing_time_balances as v
            where v.profile_id = any (uncached)
                and v.reset_date >= first_day
                and v.reset_date <= last_day
        loop
            i := width_bucket(r.profile_id, profile_ids);
            if r.reset_date = days[i] then
                used[i] := r.used_seconds;
            end if;
            if r.reset_date between days[i] - 6 and days[i] then
                in_week[i] := coalesce(in_week[i], 0) + coalesce(r.used_seconds, 0);
            end if;
        end loop;
        foreach profile in array uncached loop
            i := width_bucket(profile, profile_ids);
            closed[i] := closed[i]
                or coalesce(coalesce(used[i], 0) + 1500 >= 60 * limits[i], false)
                or coalesce(60 * weekly_limits[i] <= 1500 + coalesce(in_week[i], 0), false);
            used[i] := null;
        end loop;
    end if;

    for i in 1 .. cardinality(profile_ids) loop
        if configured[i] is null then
            if days[i] is null then
                usage_from[i] := case when kids[i] then usage_from[i] end;
                closed[i] := kids[i] is true;
                if not closed[i] then
                    days[i] := guessed_days[1];
                    begin_seconds[i] := coalesce(begin_seconds[i], guessed_begins[1]);
                end if;
            end if;
            if renews[i] and kids[i] is false then
                renewed := renewed || i;
                are_children := are_children || false;
                weekday_limits := weekday_limits || null::int;
                weekend_limits := weekend_limits || null::int;
                reset_hours := reset_hours || null::int;
                exemptions := exemptions || null::bool;
                timezones := timezones || null::text;
                floors := floors || null::date;
            end if;
        end if;

        number := width_bucket(title_ids[i], known);
        educational[i] := known[number] = title_ids[i] and lessons[number];
        educational[i] := coalesce(educational[i], false);
        exempt[i] := educational[i] and exempt[i];
        before[i] := case when exempt[i] is not true then 0 end;
        begins[i] := to_timestamp(begin_seconds[i]);
        beats[i] := i;
        refusals[i] := case
            when active[width_bucket(account_ids[i], active)] is distinct from account_ids[i] then 1
            when kids[i] is null then 2
            when known[number] is distinct from title_ids[i] then 3
            when closed[i] then 8
            else 0
        end;
        if refusals[i] = 0 then
            wanted[i] := session_ids[i];
            if starts[i] then
                starting := starting || profile_ids[i];
                begun[i] := true;
            end if;
        end if;
    end loop;

    -- One session at most is open for a profile, also if two instances start one at once.
    if starting is not null then
        perform from profiles as p where p.id = any (starting) order by p.id for no key update;
        select array_agg(s.id)
        into open_ids
        from viewing_sessions as s
        where s.profile_id = any (starting) and s.ended_at is null;
    end if;

    for r in
        select
            s.id, s.profile_id, s.title_id, s.device_id::text, s.started_at, s.last_heartbeat_at,
            s.ended_at, s.total_seconds, s.paused_at, s.recent_keys, s.earlier_days
        from viewing_sessions as s
        where s.id = any (wanted || open_ids)
            and s.profile_id = profile_ids[width_bucket(s.profile_id, profile_ids)]
            and (
                s.id = wanted[width_bucket(s.profile_id, profile_ids)]
                or begun[width_bucket(s.profile_id, profile_ids)] and s.ended_at is null
            )
        order by s.profile_id, s.id
        for no key update
    loop
        i := width_bucket(r.profile_id, profile_ids);
        if r.id <> wanted[i] then
            open_ids_found := open_ids_found || r.id;
            open_places := open_places || i;
            if r.device_id <> device_ids[i] and r.last_heartbeat_at > at - interval '5 minutes' then
                displaced := displaced || r.id;
                displaced_places := displaced_places || i;
            end if;
            continue;
        end if;

        stored[i] := true;
        earlier := substring(
            r.recent_keys
            from nullif(position(substring(keys[i] from 1 for 8) in r.recent_keys), 0)
            for 10
        );
        is_displaced := exclusive[i]
            and r.ended_at is not null
            and viewing_session_is_displaced(r.profile_id, r.device_id, r.started_at, r.ended_at);
        refusals[i] := case
            when earlier <> keys[i] then 6
            when starts[i] and r.started_at < at - interval '1 day' then 6
            when is_displaced then 7
            else 0
        end;
        before[i] := case
            when exempt[i] then null
            when r.ended_at is null and r.title_id = title_ids[i] then coalesce(r.total_seconds, 0)
        end;
        if starts[i] or earlier is not null then
            seconds[i] := 0;
        else
            if at - r.paused_at > interval '300 seconds' then
                seconds[i] := 0;
            elsif by_clock and is_displaced is not true then
                clocked[i] := true;
            end if;
            if refusals[i] = 0 then
                continued := continued || r.id;
                if (r.last_heartbeat_at >= begins[i]) is not true then
                    parts[i] := viewing_earlier_parts(
                        r.earlier_days, coalesce(r.total_seconds, 0), r.last_heartbeat_at
                    );
                end if;
            end if;
        end if;
    end loop;

    for i in 1 .. cardinality(profile_ids) loop
        if refusals[i] = 0 and stored[i] is null then
            if starts[i] then
                clocked[i] := by_clock;
            else
                perform
                from viewing_sessions as s
                where s.id = session_ids[i] and s.profile_id <> profile_ids[i];
                refusals[i] := case when found then 5 else 4 end;
            end if;
        end if;
        if clocked[i] then
            timed := timed || profile_ids[i];
        end if;
    end loop;

    -- As viewing_clock_count of 0025.
    if timed is not null then
        for r in
            select c.profile_id, c.counted_until
            from viewing_clocks as c
            where c.profile_id = any (timed)
            order by c.profile_id
            for no key update
        loop
            i := width_bucket(r.profile_id, profile_ids);
            gap := round(extract(epoch from at - r.counted_until));
            seconds[i] := greatest(
                0, least(30, gap, greatest(0, floor(extract(epoch from at - begins[i]))))
            );
            counted_to[i] := case
                when gap between -30 and 30
                then r.counted_until + make_interval(secs => greatest(0, gap))
                else at
            end;
        end loop;
        update viewing_clocks as c
        set
            counted_until = counted_to[width_bucket(c.profile_id, profile_ids)],
            latest_seconds = seconds[width_bucket(c.profile_id, profile_ids)]
        where c.profile_id = any (timed)
            and counted_to[width_bucket(c.profile_id, profile_ids)] is not null;
        foreach profile in array timed loop
            i := width_bucket(profile, profile_ids);
            if counted_to[i] is null then
                -- Another instance may have begun the clock just now: the next beat counts the rest.
                insert into viewing_clocks as c (profile_id, counted_until, latest_seconds)
                values (
                    profile, at,
                    least(30, greatest(0, floor(extract(epoch from at - begins[i]))))
                )
                on conflict (profile_id) do update set latest_seconds = 0
                returning c.latest_seconds into number;
                seconds[i] := number;
            end if;
        end loop;
    end if;

    for number in 1 .. coalesce(cardinality(open_ids_found), 0) loop
        if stored[open_places[number]] is null then
            ending := ending || open_ids_found[number];
        end if;
    end loop;
    if ending is not null then
        update viewing_sessions as s
        set ended_at = greatest(at, s.started_at)
        where s.id = any (ending);
    end if;
    for number in 1 .. coalesce(cardinality(displaced), 0) loop
        i := displaced_places[number];
        if stored[i] is null then
            insert into viewing_events (account_id, profile_id, type, occurred_at, data, cause)
            values (
                account_ids[i], profile_ids[i], 'session.displaced', at,
                jsonb_build_object('session_id', displaced[number]),
                'displaced ' || displaced[number]
            )
            on conflict (profile_id, cause) do nothing;
        end if;
    end loop;

    if continued is not null then
        update viewing_sessions as s
        set
            last_heartbeat_at = greatest(at, s.started_at),
            total_seconds = coalesce(s.total_seconds, 0)
                + seconds[width_bucket(s.profile_id, profile_ids)],
            paused_at = case
                when paused[width_bucket(s.profile_id, profile_ids)] then coalesce(s.paused_at, at)
            end,
            recent_keys = case
                when keys[width_bucket(s.profile_id, profile_ids)] is null then s.recent_keys
                else substring(
                    keys[width_bucket(s.profile_id, profile_ids)] || coalesce(s.recent_keys, '')
                    from 1 for 1000
                )
            end,
            earlier_days = coalesce(
                parts[width_bucket(s.profile_id, profile_ids)], s.earlier_days
            )
        where s.id = any (continued);
    end if;

    for i in 1 .. cardinality(profile_ids) loop
        if usage_from[i] is not null then
            playing := playing || i;
            players := players || profile_ids[i];
            session_seconds := session_seconds || coalesce(before[i] + seconds[i], 0);
        end if;
        continue when refusals[i] <> 0;
        if stored[i] is null then
            insert into viewing_sessions (
                id, profile_id, title_id, device_id, device_type, is_educational, started_at,
                last_heartbeat_at, ended_at, total_seconds, paused_at, recent_keys
            )
            values (
                session_ids[i], profile_ids[i], title_ids[i], device_ids[i], device_types[i],
                educational[i], at, at, null, seconds[i], case when paused[i] then at end, keys[i]
            );
        end if;
        if kids[i] then
            child_places := child_places || i;
            child_ids := child_ids || profile_ids[i];
            child_days := child_days || days[i];
        end if;
    end loop;

    for day_read in
        select
            c.day,
            array_agg(c.profile_id) filter (where seconds[c.place] > 0) as counting,
            array_agg(c.profile_id) filter (where seconds[c.place] <= 0) as idle
        from unnest(child_places, child_ids, child_days) as c (place, profile_id, day)
        group by c.day
        order by c.day
    loop
        if day_read.counting is not null then
            for r in
                update viewing_time_balances as v
                set
                    used_seconds = coalesce(v.used_seconds, 0) + case
                        when exempt[width_bucket(v.profile_id, profile_ids)] then 0
                        else seconds[width_bucket(v.profile_id, profile_ids)]
                    end,
                    educational_seconds = coalesce(v.educational_seconds, 0) + case
                        when exempt[width_bucket(v.profile_id, profile_ids)]
                        then seconds[width_bucket(v.profile_id, profile_ids)]
                        else 0
                    end,
                    updated_at = at
                where v.reset_date = day_read.day and v.profile_id = any (day_read.counting)
                returning
                    v.profile_id, v.used_seconds, v.is_unlimited_override, v.extended_minutes
            loop
                i := width_bucket(r.profile_id, profile_ids);
                used[i] := r.used_seconds;
                lifted[i] := coalesce(r.is_unlimited_override, false);
                added[i] := r.extended_minutes;
            end loop;
        end if;
        if day_read.idle is not null then
            for r in
                select v.profile_id, v.used_seconds, v.is_unlimited_override, v.extended_minutes
                from viewing_time_balances as v
                where v.reset_date = day_read.day and v.profile_id = any (day_read.idle)
            loop
                i := width_bucket(r.profile_id, profile_ids);
                used[i] := coalesce(r.used_seconds, 0);
                lifted[i] := coalesce(r.is_unlimited_override, false);
                added[i] := r.extended_minutes;
            end loop;
        end if;
    end loop;

    foreach i in array coalesce(child_places, '{}') loop
        if used[i] is null and seconds[i] > 0 then
            -- Out of order: fails instead of waiting, see viewing_balances_open in 0030.
            if cardinality(child_places) > 1 then
                perform
                from viewing_time_balances as v
                where v.profile_id = profile_ids[i] and v.reset_date = days[i]
                for no key update nowait;
            end if;
            insert into viewing_time_balances as v (
                id, profile_id, reset_date, used_seconds, educational_seconds,
                is_unlimited_override, updated_at
            )
            values (
                (id_prefix || lpad(to_hex(i), 8, '0'))::uuid, profile_ids[i], days[i],
                case when exempt[i] then 0 else seconds[i] end,
                case when exempt[i] then seconds[i] else 0 end,
                false, at
            )
            on conflict (profile_id, reset_date) do update
            set
                used_seconds = coalesce(v.used_seconds, 0) + excluded.used_seconds,
                educational_seconds = coalesce(v.educational_seconds, 0)
                    + excluded.educational_seconds,
                updated_at = excluded.updated_at
            returning v.used_seconds, v.is_unlimited_override, v.extended_minutes into r;
            used[i] := r.used_seconds;
            lifted[i] := coalesce(r.is_unlimited_override, false);
            added[i] := r.extended_minutes;
        end if;
        children := children || profile_ids[i];
        used_seconds := used_seconds || coalesce(used[i], 0);
        overrides := overrides || coalesce(lifted[i], false);
        if added[i] is not null then
            extended := extended || profile_ids[i];
            extended_minutes := extended_minutes || added[i];
        end if;
        if announce_from[i] <= (
            case
                when lifted[i] then -2147483648
                else coalesce(used[i], 0) - 60 * coalesce(added[i], 0)
            end
        ) then
            due := due || i;
        end if;
    end loop;

    if renewed is not null then
        for number in 1 .. cardinality(renewed) loop
            i := renewed[number];
            policies := policies || case
                when schedules[i] is not null
                    or locks[i] > at
                    or exceptions[i] is not null
                    or floors[number] is not null
                then json_build_object(
                    'schedule', schedules[i],
                    'exceptions', exceptions[i],
                    'locked_until', locks[i],
                    'day_floor', floors[number]
                )::text
            end;
        end loop;
    end if;

    if playing is not null then
        -- From `-infinity` on: the six days before, if the schedule needs them, see 0034.
        select array_agg(z.profile_id order by z.profile_id)
        into weekly
        from viewing_schedules as z
        where z.profile_id = any (players)
            and (z.weekly_limit_minutes is not null or z.rollover_max_minutes > 0);
        first_day := null;
        last_day := null;
        foreach i in array playing loop
            if usage_from[i] = '-infinity' then
                usage_from[i] := case
                    when weekly[width_bucket(profile_ids[i], weekly)] = profile_ids[i]
                    then days[i] - 6
                end;
            end if;
            first_day := least(first_day, usage_from[i]);
            last_day := greatest(last_day, days[i]);
        end loop;
        for r in
            select
                v.profile_id, v.reset_date, v.used_seconds, v.is_unlimited_override,
                v.extended_minutes, v.limit_minutes
            from viewing_time_balances as v
            where v.profile_id = any (players)
                and v.reset_date >= first_day
                and v.reset_date < last_day
                and v.reset_date >= usage_from[width_bucket(v.profile_id, profile_ids)]
                and v.reset_date < days[width_bucket(v.profile_id, profile_ids)]
        loop
            past := past || width_bucket(r.profile_id, profile_ids);
            past_days := past_days || r.reset_date;
            past_used_seconds := past_used_seconds || coalesce(r.used_seconds, 0);
            past_overrides := past_overrides || coalesce(r.is_unlimited_override, false);
            past_extended_minutes := past_extended_minutes || coalesce(r.extended_minutes, 0);
            past_limit_minutes := past_limit_minutes || r.limit_minutes;
        end loop;
    end if;

    if due is not null then
        events := viewing_announce(
            due, child_places, child_ids, child_days, children, used_seconds, overrides, extended,
            extended_minutes, playing, session_seconds, past, past_days, past_used_seconds,
            past_overrides, past_extended_minutes, past_limit_minutes, rules, at
        );
    end if;
end;
$$
