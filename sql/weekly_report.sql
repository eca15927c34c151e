-- Sums up a range of UTC days for every child of an account.
--
-- $1 account_id uuid               who asks
-- $2 week_start date               first UTC day of `started_at`
-- $3 days int                      so many days
-- $4 titles int                    so many titles for each child
--
-- row: is_active bool              the account may ask
-- row: profile_id uuid             null (like the rest) in the one row of a childless account
-- row: profile_name text
-- row: has_configuration bool      false: the child has none, and the next two are null
-- row: weekday_limit_minutes int   null is unlimited
-- row: weekend_limit_minutes int   null is unlimited
-- row: watched_days int4[]         days after $2 on which anything was watched
-- row: watched_seconds int8[]      in step with `watched_days`
-- row: educational_seconds int8    of the whole range
-- row: title_ids uuid[]            most watched first, in step with the next two
-- row: title_names text[]
-- row: title_seconds int8[]
--
-- No row: the account is unknown. Writes nothing: defaults are the reader's business.
-- One pass over ix_vs_profile_started for each child; the sessions are summed by day and title
-- once, and both answers are drawn from those sums, so what leaves the database is a row a child
-- and not a row a session.
select
    u.is_active,
    p.id as profile_id,
    p.name as profile_name,
    c.id is not null as has_configuration,
    c.weekday_limit_minutes,
    c.weekend_limit_minutes,
    w.watched_days,
    w.watched_seconds,
    w.educational_seconds,
    w.title_ids,
    w.title_names,
    w.title_seconds
from users as u
left join profiles as p on p.user_id = u.id and p.is_kids and u.is_active
left join viewing_time_configs as c on c.profile_id = p.id
left join lateral (
    with watched as materialized (
        select
            (v.started_at at time zone 'UTC')::date - $2::date as day,
            v.title_id,
            sum(v.total_seconds) as seconds,
            sum(v.total_seconds) filter (where v.is_educational) as educational
        from viewing_sessions as v
        where v.profile_id = p.id
            and v.started_at >= $2::date::timestamp at time zone 'UTC'
            and v.started_at < ($2::date + $3::int)::timestamp at time zone 'UTC'
        group by 1, 2
    ),
    by_day as (
        select
            d.day,
            sum(d.seconds)::int8 as seconds,
            sum(d.educational) as educational
        from watched as d
        group by d.day
    ),
    by_title as (
        select
            x.title_id,
            t.title::text as title,
            x.seconds
        from (
            select
                d.title_id,
                sum(d.seconds)::int8 as seconds
            from watched as d
            group by d.title_id
            order by seconds desc, d.title_id
            limit $4::int
        ) as x
        join titles as t on t.id = x.title_id
        order by x.seconds desc, x.title_id
    )
    select
        (select array_agg(d.day) from by_day as d) as watched_days,
        (select array_agg(d.seconds) from by_day as d) as watched_seconds,
        (select coalesce(sum(d.educational), 0)::int8 from by_day as d) as educational_seconds,
        (select array_agg(x.title_id) from by_title as x) as title_ids,
        (select array_agg(x.title) from by_title as x) as title_names,
        (select array_agg(x.seconds) from by_title as x) as title_seconds
) as w on true
where u.id = $1::uuid
order by p.name collate "C", p.id
