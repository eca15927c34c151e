-- Lists the parked events in the order in which they would have been sent.
--
-- $1 after_position int8           of the latest one that was read
-- $2 max_events int
--
-- row: event_id uuid
-- row: position int8
-- row: account_id uuid
-- row: profile_id uuid             null: the event is about the account
-- row: type text
-- row: occurred_at timestamptz
-- row: data text
--
-- Index: ix_ve_parked.
select
    e.id as event_id,
    e.position,
    e.account_id,
    e.profile_id,
    e.type,
    e.occurred_at,
    e.data::text as data
from viewing_events as e
where e.parked_at is not null and e.position > $1::int8
order by e.position
limit $2::int
