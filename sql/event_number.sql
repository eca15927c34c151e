-- Gives the next positions to events that have none.
--
-- $1 max_events int
--
-- row: position int8               the highest that an event has now
-- row: numbered int
--
-- The transaction has locked the feed (`event_feed_lock`), so no other one gives positions.
-- Only a deletion locks events without a position. They are skipped, because a deletion that waits
-- for a lock must not stop the events of all families; if it is rolled back, they are numbered later.
-- Indexes: `ix_ve_new`, then the primary key.
with new as materialized (
    select
        e.id,
        e.seq
    from viewing_events as e
    where e.position is null
    order by e.seq
    limit $1::int
    for no key update skip locked
),

ordered as (
    select
        n.id,
        f.position + row_number() over (order by n.seq) as position
    from new as n
    cross join viewing_event_feed as f
),

numbered as (
    update viewing_events as e
    set position = o.position
    from ordered as o
    where e.id = o.id
    returning e.position
)

update viewing_event_feed as f
set position = coalesce((select max(n.position) from numbered as n), f.position)
returning
    f.position,
    (select count(*) from numbered)::int as numbered
