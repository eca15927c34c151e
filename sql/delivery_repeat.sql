-- Makes events unsent again, so that the webhook gets them once more.
--
-- $1 event_ids uuid[]
--
-- row: events int
--
-- Events in an open batch are left out, as they are being sent, and so are those that have no position
-- yet. Events from before the first start with a webhook are sent too. Without such a start nothing
-- is sent. Only delivered, parked and earlier events are locked, then the feed; delivery_form locks
-- the feed first, then other events.
with repeated as (
    update viewing_events as e
    set delivered_at = null, parked_at = null
    from viewing_event_feed as f
    where e.id = any ($1::uuid[])
        and e.delivery_id is null
        and (
            e.delivered_at is not null or e.parked_at is not null or e.position <= f.webhook_from
        )
    returning e.position
),
moved as (
    update viewing_event_feed as f
    set webhook_from = least(f.webhook_from, (select min(r.position) - 1 from repeated as r))
    where exists (select from repeated)
)
select count(*)::int as events
from repeated
