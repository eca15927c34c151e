-- Locks the feed until the transaction ends.
--
-- row: position int8               the highest that an event has
-- row: webhook_from int8           events after this position are sent to the webhook; null: no webhook
-- row: idle_limit text
--
-- No row: another transaction has locked it, or it has no row.
-- The server ends the transaction if this process stops in the middle of it, so that the feed of all
-- instances does not stop with it. The next statement of the transaction sees everything that was
-- committed before the lock was taken, which this one may not.
select
    f.position,
    f.webhook_from,
    set_config('idle_in_transaction_session_timeout', '5000', true) as idle_limit
from viewing_event_feed as f
for no key update skip locked
