-- Makes a new connection ready for heartbeats: runs what most of them call, for no profile.
--
-- $1 day date                      any
-- $2 now timestamptz
-- $3 most int                      the number of pairs to return
--
-- row: timezones text[]            of the most frequent pairs of a zone and a reset hour; null: none
-- row: reset_hours int[]           in step with `timezones`
--
-- The server plans the statements inside a function when a connection calls it for the first time,
-- which takes longer than a heartbeat, and opens every partition of the balances. The functions write
-- nothing here, because there are 0 seconds to count. They are in a materialized part, because the
-- server would leave out columns that nothing uses.
-- The pairs are counted in the first 10,000 configurations only, which takes a few milliseconds: a
-- heartbeat of an uncached profile with another pair costs two statements, once.
with functions as materialized (
    select
        viewing_policies(n.profiles, n.days, n.days, $2::timestamptz) as policies,
        viewing_balances_add(
            n.profiles, n.days, array[0], array[false], n.places, array[2147483647],
            repeat('0', 24), $2::timestamptz
        ) as balances,
        viewing_is_close(n.profiles[1], n.days[1], null, $2::timestamptz) as is_close,
        viewing_past_balances(n.places, n.profiles, n.days, n.days) as past_balances
    from (
        select
            array[1] as places,
            array['00000000-0000-0000-0000-000000000000'::uuid] as profiles,
            array[$1::date] as days
    ) as n
)
select
    array_agg(p.timezone) as timezones,
    array_agg(p.reset_hour) as reset_hours
from functions as f
cross join lateral (
    select c.timezone, c.reset_hour
    from (
        select c.timezone::text, c.reset_hour
        from viewing_time_configs as c
        where c.timezone is not null and c.reset_hour is not null
        limit 10000
    ) as c
    group by c.timezone, c.reset_hour
    order by count(*) desc
    limit $3::int
) as p
