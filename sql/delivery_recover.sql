-- Makes events unsent again whose batch is missing, for example after only some tables were restored.
--
-- row: events int
--
-- A batch and its events are written and ended in one transaction, so no snapshot has one without the
-- other. Locks the events, then the feed, like delivery_repeat. Indexes: ix_ve_sending and the
-- primary key of the batches.
with lost as (
    update viewing_events as e
    set delivery_id = null
    where e.delivery_id is not null
        and not exists (select from viewing_deliveries as d where d.id = e.delivery_id)
    returning e.position
),
moved as (
    update viewing_event_feed as f
    set webhook_from = least(f.webhook_from, (select min(l.position) - 1 from lost as l))
    where exists (select from lost)
)
select count(*)::int as events
from lost
