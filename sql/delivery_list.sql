-- Lists events in the order of their ids, which sort by the time of the database.
--
-- $1 after_id uuid                 the latest one that was read, or the smallest of a time
-- $2 max_events int
--
-- row: event_id uuid
-- row: position int8               0: not numbered yet
-- row: account_id uuid
-- row: profile_id uuid             null: the event is about the account
-- row: type text
-- row: occurred_at timestamptz
-- row: data text
select
    e.id as event_id,
    coalesce(e.position, 0) as position,
    e.account_id,
    e.profile_id,
    e.type,
    e.occurred_at,
    e.data::text as data
from viewing_events as e
where e.id > $1::uuid
order by e.id
limit $2::int
