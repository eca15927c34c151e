-- Creates the row of the feed, after the highest position that an event has.
--
-- row: position int8
--
-- No row: it exists. Without the row no event is numbered, so the highest position does not move.
-- Index: `ix_ve_position`.
insert into viewing_event_feed (position)
select coalesce(max(e.position), 0)
from viewing_events as e
on conflict (is_only) do nothing
returning position
