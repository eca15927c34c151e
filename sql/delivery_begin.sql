-- Marks the position after which events are sent to the webhook, at the first start with a webhook.
--
-- row: webhook_from int8
--
-- No row: it has been marked before, or the feed has no row yet.
-- Earlier events are not sent: a new receiver would get those of a month at once.
update viewing_event_feed as f
set webhook_from = f.position
where f.webhook_from is null
returning f.webhook_from
