-- Creates the row of the feed, or moves it up, to the highest position that an event has.
--
-- row: position int8
--
-- No row: it is there already. Only a restore of some tables leaves it behind; its next positions would
-- then be given twice. An instance that numbers meanwhile has locked the row, which is read again
-- after that. Index: `ix_ve_position`.
insert into viewing_event_feed as f (position)
select coalesce(max(e.position), 0)
from viewing_events as e
on conflict (is_only) do update set position = excluded.position
where f.position < excluded.position
returning f.position
