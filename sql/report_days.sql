-- Sums the viewing of children by their own viewing days, and by title.
--
-- $1 account_id uuid               the caller
-- $2 profile_ids uuid[]            children of the account, in step with the next parameter
-- $3 bounds timestamptz[]          for each child $4 + 1 times: when its days begin, and the end
-- $4 days int                      number of days
-- $5 max_titles int                for each child
--
-- row: profile_id uuid
-- row: watched_days int4[]         days after its first one on which anything was watched
-- row: watched_seconds int8[]      in step with `watched_days`
-- row: educational_seconds int8[]  the part of them that was educational
-- row: title_ids uuid[]            most watched first, in step with the next two
-- row: title_names text[]
-- row: title_seconds int8[]
--
-- Profiles that are not children of the account, or of an inactive one, have no row.
-- The time of a session is divided between its days as in `history_days`, and found by the same
-- indexes. As in `weekly_report`, grouping sets sum it by day and by title at once.
select
    p.id as profile_id,
    w.watched_days,
    w.watched_seconds,
    w.educational_seconds,
    w.title_ids,
    w.title_names,
    w.title_seconds
from unnest($2::uuid[]) with ordinality as a (profile_id, place)
join users as u on u.id = $1::uuid and u.is_active
join profiles as p on p.id = a.profile_id and p.user_id = u.id and p.is_kids
cross join lateral (
    select
        ($3::timestamptz[])[(a.place::int - 1) * ($4::int + 1) + 1:a.place::int * ($4::int + 1)]
            as bounds
) as b
cross join lateral (
    with parts as (
        select
            width_bucket(k.started_at, b.bounds) - 1 as day,
            k.title_id,
            k.is_educational,
            k.total_seconds as seconds
        from viewing_sessions as k
        where k.profile_id = p.id
            and k.earlier_days is null
            and k.started_at >= b.bounds[1]
            and k.started_at < b.bounds[$4::int + 1]
        union all
        select
            e.day,
            k.title_id,
            k.is_educational,
            e.seconds
        from viewing_sessions as k
        cross join lateral (
            select
                width_bucket(k.last_heartbeat_at, b.bounds) - 1 as day,
                k.total_seconds - coalesce(sum((j.part ->> 1)::int), 0)::int as seconds
            from jsonb_array_elements(k.earlier_days) as j (part)
            union all
            select
                width_bucket((j.part ->> 0)::timestamptz, b.bounds) - 1,
                (j.part ->> 1)::int
            from jsonb_array_elements(k.earlier_days) as j (part)
        ) as e
        where k.profile_id = p.id
            and k.earlier_days is not null
            and k.started_at < b.bounds[$4::int + 1]
            and k.last_heartbeat_at >= b.bounds[1]
    ),
    watched as materialized (
        select
            x.day,
            x.title_id,
            coalesce(sum(x.seconds), 0)::int8 as seconds,
            coalesce(sum(x.seconds) filter (where x.is_educational), 0)::int8 as educational
        from parts as x
        where x.day between 0 and $4::int - 1
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
            where x.title_id is not null and x.seconds > 0
            order by x.seconds desc, x.title_id
            limit $5::int
        ) as y
        join titles as k on k.id = y.title_id
    ) as t
) as w
order by a.place
