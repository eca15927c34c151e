-- Counts the events that wait, by what they wait for.
--
-- $1 has_webhook bool              else no event waits for it
-- $2 max_counted int               of each kind
--
-- row: unnumbered int              written, without a position yet
-- row: unsent int                  in no batch yet
-- row: sending int                 in an open batch
-- row: parked int                  not received within a day
-- row: oldest_seconds float8       age of the oldest of the first three
--
-- Indexes: ix_ve_new, ix_ve_unsent, ix_ve_sending once for each open delivery, and ix_ve_parked.
with unnumbered as materialized (
    select e.occurred_at
    from viewing_events as e
    where e.position is null
    order by e.seq
    limit $2::int
),
unsent as materialized (
    select u.occurred_at
    from viewing_event_feed as f
    cross join lateral (
        select e.occurred_at
        from viewing_events as e
        where e.position > f.webhook_from
            and e.delivery_id is null and e.delivered_at is null and e.parked_at is null
        order by e.position
        limit $2::int
    ) as u
    where $1::bool
),
sending as materialized (
    select s.occurred_at
    from viewing_deliveries as d
    cross join lateral (
        select e.occurred_at
        from viewing_events as e
        where e.delivery_id = d.id
        offset 0
    ) as s
    where $1::bool
),
parked as materialized (
    select e.id
    from viewing_events as e
    where e.parked_at is not null
    order by e.position
    limit $2::int
)
select
    (select count(*)::int from unnumbered) as unnumbered,
    (select count(*)::int from unsent) as unsent,
    (select count(*)::int from sending) as sending,
    (select count(*)::int from parked) as parked,
    coalesce(
        extract(epoch from now() - least(
            (select min(n.occurred_at) from unnumbered as n),
            (select min(u.occurred_at) from unsent as u),
            (select min(s.occurred_at) from sending as s)
        )),
        0
    )::float8 as oldest_seconds
