-- Ends a batch that the webhook has received.
--
-- $1 delivery_id uuid
-- $2 attempts int                  of the attempt that was received
--
-- row: events int                  0: another instance has begun a later attempt, or all were erased
--
-- Index: ix_ve_sending.
with ended as (
    delete from viewing_deliveries as d
    where d.id = $1::uuid and d.attempts = $2::int
    returning d.id
),
delivered as (
    update viewing_events as e
    set delivery_id = null, delivered_at = now()
    from ended as d
    where e.delivery_id = d.id
    returning e.id
)
select count(*)::int as events
from delivered
