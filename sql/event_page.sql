-- Reads the events of one account between two positions, in their order.
--
-- $1 account_id uuid
-- $2 after_position int8
-- $3 to_position int8
-- $4 after_id uuid                 only events with a greater id, so later ones; null: all
-- $5 max_events int
--
-- row: event_id uuid
-- row: position int8
-- row: account_id uuid
-- row: profile_id uuid
-- row: type text
-- row: occurred_at timestamptz
-- row: data text
--
-- Index: `ix_ve_account`.
select
    e.id as event_id,
    e.position,
    e.account_id,
    e.profile_id,
    e.type,
    e.occurred_at,
    e.data::text as data
from viewing_events as e
where e.account_id = $1::uuid
    and e.position > $2::int8
    and e.position <= $3::int8
    and ($4::uuid is null or e.id > $4::uuid)
order by e.position
limit $5::int
