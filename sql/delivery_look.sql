-- Reads whether the webhook has work.
--
-- row: has_begun bool              the first event to be sent is marked
-- row: has_unsent bool             an event is in no batch yet
-- row: has_due bool                a batch is due
--
-- No row: the feed has no row yet.
-- Runs four times a second on each instance. Indexes: ix_ve_unsent and ix_vd_due.
select
    f.webhook_from is not null as has_begun,
    exists (
        select
        from viewing_events as e
        where e.position > f.webhook_from
            and e.delivery_id is null and e.delivered_at is null and e.parked_at is null
    ) as has_unsent,
    exists (
        select
        from viewing_deliveries as d
        where d.due_at <= now()
    ) as has_due
from viewing_event_feed as f
