-- Finds the heartbeats of a batch whose rows another transaction holds.
--
-- $1 profile_ids uuid[]            of the viewers
-- $2 title_ids uuid[]              of the watched titles
-- $3 session_ids uuid[]            of the sessions that continue
-- $4 starts bool[]                 true: the beat starts a session
-- $5 days date[]                   the viewing days; null: unknown, the day of the latest balance
-- $6 lock_timeout text             of this statement; it waits for locked tables only
--
-- row: profiles int4[]             positions in the arrays, from 1, of beats with a held profile,
--                                  session, clock or balance
-- row: titles int4[]               positions of beats that start a session of a held title
--
-- Runs after a batch has run into its lock time-out, because the server does not report the row.
-- It takes the locks that the batch takes (heartbeat_record, its foreign keys, the advisory lock of
-- migration 0004), skips those that are held, and releases them all at its end. It cannot see a row
-- that another transaction has inserted and not committed.
with beats as materialized (
    select b.profile_id, b.title_id, b.session_id, b.starts, b.day, b.beat::int4 as beat
    from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bool[], $5::date[]) with ordinality
        as b (profile_id, title_id, session_id, starts, day, beat)
    where (select set_config('lock_timeout', $6::text, true)) is not null
),
tried as materialized (
    select
        a.beat,
        p.id is not null and pl.id is null
            or s.id is not null and sl.id is null
            or w.profile_id is not null and wl.profile_id is null
            or v.id is not null and vl.id is null
            or o.sessions > 0
            or a.starts and not pg_try_advisory_xact_lock(uuid_hash_extended(a.profile_id, 0))
            as is_profile_held,
        a.starts and t.id is not null and tl.id is null as is_title_held
    from beats as a
    left join profiles as p on p.id = a.profile_id
    left join lateral (
        select x.id from profiles as x where x.id = p.id for key share skip locked
    ) as pl on true
    left join viewing_sessions as s on s.id = a.session_id and s.profile_id = a.profile_id
    left join lateral (
        select x.id from viewing_sessions as x where x.id = s.id for no key update skip locked
    ) as sl on true
    left join viewing_clocks as w on w.profile_id = a.profile_id
    left join lateral (
        select x.profile_id
        from viewing_clocks as x
        where x.profile_id = w.profile_id
        for no key update skip locked
    ) as wl on true
    left join viewing_time_balances as v
        on v.profile_id = a.profile_id
        and v.reset_date = coalesce(
            a.day,
            (
                select x.reset_date
                from viewing_time_balances as x
                where x.profile_id = a.profile_id
                order by x.reset_date desc
                limit 1
            )
        )
    left join lateral (
        select x.id
        from viewing_time_balances as x
        where x.id = v.id and x.reset_date = v.reset_date
        for no key update skip locked
    ) as vl on true
    left join titles as t on t.id = a.title_id
    left join lateral (
        select x.id from titles as x where x.id = t.id for key share skip locked
    ) as tl on true
    left join lateral (
        select count(*) - count(l.id) as sessions
        from viewing_sessions as y
        left join lateral (
            select x.id from viewing_sessions as x where x.id = y.id for no key update skip locked
        ) as l on true
        where a.starts and y.profile_id = a.profile_id and y.ended_at is null
    ) as o on true
)
select
    coalesce(array_agg(d.beat) filter (where d.is_profile_held), '{}') as profiles,
    coalesce(array_agg(d.beat) filter (where d.is_title_held), '{}') as titles
from tried as d
