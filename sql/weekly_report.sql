-- Sums the viewing of every child of an account over a range of UTC days.
--
-- $1 account_id uuid               the caller
-- $2 week_start date               first UTC day of `started_at`
-- $3 days int                      number of days
-- $4 max_titles int                for each child
-- $5 max_children int
-- $6 after_id uuid                 children after this one, by name and id; null: from the first
--
-- row: is_active bool              the account is active
-- row: is_owner bool               $6 is one of the account's profiles, or null
-- row: profile_id uuid             null (like the rest) in the one row of an account without children
-- row: profile_name text
-- row: has_configuration bool      false: the child has none, and the next three are null
-- row: weekday_limit_minutes int   null is unlimited
-- row: weekend_limit_minutes int   null is unlimited
-- row: educational_exempt bool
-- row: watched_days int4[]         days after $2 on which anything was watched
-- row: watched_seconds int8[]      in step with `watched_days`
-- row: educational_seconds int8[]  the part of them that was educational
-- row: title_ids uuid[]            most watched first, in step with the next two
-- row: title_names text[]
-- row: title_seconds int8[]
--
-- No row: the account is unknown. Stores no defaults; the caller adds them.
-- One scan of ix_vs_profile_started for each child. Grouping sets sum it by day and by title at
-- once, with a hash table for each. Grouping by both together would sort first, which took longer
-- than the scan. The result has a row for each child, not for each session.
select
    u.is_active,
    $6::uuid is null or a.id is not null as is_owner,
    p.id as profile_id,
    p.name as profile_name,
    c.id is not null as has_configuration,
    c.weekday_limit_minutes,
    c.weekend_limit_minutes,
    c.educational_exempt,
    w.watched_days,
    w.watched_seconds,
    w.educational_seconds,
    w.title_ids,
    w.title_names,
    w.title_seconds
from users as u
left join profiles as a on a.id = $6::uuid and a.user_id = u.id
left join lateral (
    select k.id, k.name
    from profiles as k
    where k.user_id = u.id
        and k.is_kids
        and u.is_active
        and ($6::uuid is null or (k.name collate "C", k.id) > (a.name collate "C", a.id))
    order by k.name collate "C", k.id
    limit $5::int
) as p on true
left join viewing_time_configs as c on c.profile_id = p.id
left join lateral (
    with watched as materialized (
        select
            (v.started_at at time zone 'UTC')::date - $2::date as day,
            v.title_id,
            coalesce(sum(v.total_seconds), 0) as seconds,
            coalesce(sum(v.total_seconds) filter (where v.is_educational), 0) as educational
        from viewing_sessions as v
        where v.profile_id = p.id
            and v.started_at >= $2::date::timestamp at time zone 'UTC'
            and v.started_at < ($2::date + $3::int)::timestamp at time zone 'UTC'
        group by grouping sets ((1), (2))
    )
    select
        d.watched_days,
        d.watched_seconds,
        d.educational_seconds,
        t.title_ids,
        t.title_names,
        t.title_seconds
    from (
        select
            array_agg(x.day) as watched_days,
            array_agg(x.seconds) as watched_seconds,
            array_agg(x.educational) as educational_seconds
        from watched as x
        where x.day is not null
    ) as d
    cross join (
        select
            array_agg(y.title_id order by y.seconds desc, y.title_id) as title_ids,
            array_agg(k.title::text order by y.seconds desc, y.title_id) as title_names,
            array_agg(y.seconds order by y.seconds desc, y.title_id) as title_seconds
        from (
            select x.title_id, x.seconds
            from watched as x
            where x.title_id is not null
            order by x.seconds desc, x.title_id
            limit $4::int
        ) as y
        join titles as k on k.id = y.title_id
    ) as t
) as w on true
where u.id = $1::uuid
order by p.name collate "C", p.id
