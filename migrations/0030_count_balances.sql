-- depends: 0029_ix_vtb_date_profile
--
-- Adds the seconds of a batch of heartbeats to the balances of their days, and returns the balances.
-- The arrays that it takes are in step, in the order of profiles; a profile is in them once. Those
-- that it returns are as in viewing_day_balances. Null if there are no profiles.
--
-- Nearly every balance exists, so it is updated, found by ix_vtb_date_profile. An upsert would lock
-- each row before it updates it, which is one more record in the write-ahead log, and it would look
-- for a conflict in uq_vtb_profile_date, where every profile is on another page.
-- Another function adds the rest: balances that are missing, and beats of 0 seconds, which only read
-- their balance.
--
-- Lock order: the update takes the rows in the order of the arrays. With `= any` of one element the
-- server can join them as a nested loop only, and without `enable_seqscan` it begins with the arrays.
-- The insert waits for other inserts only, in the same order, and those transactions have finished
-- their updates. A balance that another transaction has committed since the update began is out of
-- order. With several profiles the function does not wait for its lock but fails as after a lock
-- time-out, and the service repeats the heartbeats one by one.
--
-- The search path is that of the migration, see 0004. They run with the caller's rights.
set local lock_timeout = '2s';

-- Adds the seconds to balances that were not there, and returns all of them; where the seconds are 0,
-- it only reads. `holds_others`: the transaction has locked balances of other profiles.
create or replace function viewing_balances_open(
    profiles uuid[], days date[], seconds int[], exempt bool[], places int[], id_prefix text,
    at timestamptz, holds_others bool,
    out children uuid[], out used_seconds int[], out overrides bool[],
    out extended uuid[], out extended_minutes int[]
)
language plpgsql
volatile
strict
set search_path from current
as $$
begin
    if holds_others then
        perform
        from unnest(profiles, days, seconds) as i (profile_id, day, counted)
        join viewing_time_balances as v on v.profile_id = i.profile_id and v.reset_date = i.day
        where i.counted > 0
        for no key update of v nowait;
    end if;

    insert into viewing_time_balances as v (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        updated_at
    )
    select
        (id_prefix || lpad(to_hex(i.place), 8, '0'))::uuid,
        i.profile_id,
        i.day,
        case when i.is_exempt then 0 else i.counted end,
        case when i.is_exempt then i.counted else 0 end,
        false,
        at
    from unnest(profiles, days, seconds, exempt, places)
        as i (profile_id, day, counted, is_exempt, place)
    where i.counted > 0
    order by i.profile_id
    on conflict (profile_id, reset_date) do update
    set
        used_seconds = coalesce(v.used_seconds, 0) + excluded.used_seconds,
        educational_seconds = coalesce(v.educational_seconds, 0) + excluded.educational_seconds,
        updated_at = excluded.updated_at;

    select d.*
    into children, used_seconds, overrides, extended, extended_minutes
    from viewing_day_balances(profiles, days) as d;
end;
$$;

-- Adds the seconds to balances, nearly all of which are there.
create or replace function viewing_balances_count(
    profiles uuid[], days date[], seconds int[], exempt bool[], places int[], id_prefix text,
    at timestamptz,
    out children uuid[], out used_seconds int[], out overrides bool[],
    out extended uuid[], out extended_minutes int[]
)
language plpgsql
volatile
strict
set search_path from current
set enable_seqscan = off
as $$
declare
    others record;
begin
    with counted as (
        update viewing_time_balances as v
        set
            used_seconds = coalesce(v.used_seconds, 0)
                + case when i.is_exempt then 0 else i.counted end,
            educational_seconds = coalesce(v.educational_seconds, 0)
                + case when i.is_exempt then i.counted else 0 end,
            updated_at = at
        from unnest(profiles, days, seconds, exempt) as i (profile_id, day, counted, is_exempt)
        where i.counted > 0
            and v.reset_date = any (array[i.day])
            and v.profile_id = any (array[i.profile_id])
        returning v.profile_id, v.used_seconds, v.is_unlimited_override, v.extended_minutes
    )
    select
        array_agg(b.profile_id),
        array_agg(b.used_seconds::int),
        array_agg(coalesce(b.is_unlimited_override, false)),
        array_agg(b.profile_id) filter (where b.extended_minutes is not null),
        array_agg(b.extended_minutes) filter (where b.extended_minutes is not null)
    into children, used_seconds, overrides, extended, extended_minutes
    from counted as b;

    if children is null or cardinality(children) < cardinality(profiles) then
        select r.*
        into others
        from (
            select
                array_agg(i.profile_id) as other_profiles,
                array_agg(i.day) as other_days,
                array_agg(i.counted) as other_seconds,
                array_agg(i.is_exempt) as other_exempt,
                array_agg(i.place) as other_places
            from unnest(profiles, days, seconds, exempt, places)
                as i (profile_id, day, counted, is_exempt, place)
            where i.profile_id <> all (coalesce(children, '{}'))
        ) as m
        cross join lateral viewing_balances_open(
            m.other_profiles, m.other_days, m.other_seconds, m.other_exempt, m.other_places,
            id_prefix, at, cardinality(profiles) > 1
        ) as r;
        children := children || others.children;
        used_seconds := used_seconds || others.used_seconds;
        overrides := overrides || others.overrides;
        extended := extended || others.extended;
        extended_minutes := extended_minutes || others.extended_minutes;
    end if;
end;
$$;
