-- Reads the events of all accounts after a position, in their order.
--
-- $1 after_position int8
-- $2 max_events int
--
-- row: event_id uuid
-- row: position int8
-- row: account_id uuid
-- row: profile_id uuid
-- row: type text
-- row: occurred_at timestamptz
-- row: data text
--
-- Positions become visible in their order, so no event can appear later before the last one read.
-- Index: `ix_ve_position`.
select
    e.id as event_id,
    e.position,
    e.account_id,
    e.profile_id,
    e.type,
    e.occurred_at,
    e.data::text as data
from viewing_events as e
where e.position > $1::int8
order by e.position
limit $2::int
