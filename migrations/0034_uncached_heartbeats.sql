-- depends: 0032_partition_empty_balances
--
-- A heartbeat of a profile that is not cached does not know whether the policy needs earlier balances.
-- The function finds that in the stored schedule, for beats whose first day is `-infinity`.
--
-- Of a partitioned table, the server opens the partitions between `lowest` and `highest` only. The days
-- of single beats are known too late for that: it would open all, for a fifth of the function's time.
set local lock_timeout = '2s';

-- The balances of profiles before `days`, from `firsts` on, with the place of each beat; null if
-- there are no beats. The arrays that it takes are in step, and those that it returns. From
-- `-infinity` on are the six days before, if the schedule of the profile needs them, else none.
create or replace function viewing_past_balances(
    places int[], profiles uuid[], firsts date[], days date[],
    out past int[], out past_days date[], out past_used_seconds int[], out past_overrides bool[],
    out past_extended_minutes int[], out past_limit_minutes int[]
)
language plpgsql
stable
strict
set search_path from current
as $$
declare
    lowest date := (
        select min(case when i.first = '-infinity' then i.day - 6 else i.first end)
        from unnest(firsts, days) as i (first, day)
    );
    highest date := (select max(i.day) from unnest(days) as i (day));
begin
    with asked as materialized (
        select
            i.place,
            i.profile_id,
            case when i.first = '-infinity' then i.day - 6 else i.first end as first,
            i.day
        from unnest(places, profiles, firsts, days) as i (place, profile_id, first, day)
        left join viewing_schedules as z
            on z.profile_id = case when i.first = '-infinity' then i.profile_id end
        where i.first <> '-infinity'
            or z.weekly_limit_minutes is not null
            or z.rollover_max_minutes > 0
    )
    select
        array_agg(i.place),
        array_agg(v.reset_date),
        array_agg(coalesce(v.used_seconds, 0)::int),
        array_agg(coalesce(v.is_unlimited_override, false)),
        array_agg(coalesce(v.extended_minutes, 0)),
        array_agg(v.limit_minutes)
    into
        past, past_days, past_used_seconds, past_overrides, past_extended_minutes,
        past_limit_minutes
    from asked as i
    join viewing_time_balances as v
        on v.profile_id = i.profile_id and v.reset_date >= i.first and v.reset_date < i.day
    where v.reset_date >= lowest and v.reset_date < highest;
end;
$$;
