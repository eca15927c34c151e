-- Ends an attempt that has failed: the batch is retried later, split, or parked.
--
-- $1 delivery_id uuid
-- $2 attempts int                  of the attempt that has failed
-- $3 delay_seconds float8          until the next attempt
-- $4 may_split bool                the receiver was reached, so an event can be the reason
-- $5 split_attempts int            a batch is split after this number of failures
-- $6 max_age_seconds float8        an older batch is parked
--
-- row: outcome text                retried, split or parked
-- row: events int                  of the batch
--
-- No row: another instance has begun a later attempt.
-- Splitting isolates an event that the receiver cannot accept: each event gets a delivery of its own,
-- with the age and the number of attempts of the batch, and only those that fail on are parked. It
-- comes before parking, so that no event is parked because of another one that was sent with it.
-- Locks the delivery, then its events. Index: ix_ve_sending.
-- The time is computed before the update: where a cell is a schema of Citus, a `case` of an update must
-- not call the clock.
with failed as materialized (
    select
        d.id,
        d.created_at,
        d.attempts,
        d.created_at <= now() - make_interval(secs => $6::float8) as is_over,
        now() as at
    from viewing_deliveries as d
    where d.id = $1::uuid and d.attempts = $2::int
    for no key update
),
events as materialized (
    select e.id, viewing_event_id() as delivery_id
    from failed as f
    join viewing_events as e on e.delivery_id = f.id
),
judged as materialized (
    select
        f.id,
        f.created_at,
        f.attempts,
        f.at,
        case
            when $4::bool and f.attempts >= $5::int and (select count(*) from events) > 1
            then 'split'
            when f.is_over then 'parked'
            else 'retried'
        end as outcome
    from failed as f
),
retried as (
    update viewing_deliveries as d
    set due_at = now() + make_interval(secs => $3::float8)
    from judged as j
    where d.id = j.id and j.outcome = 'retried'
),
ended as (
    delete from viewing_deliveries as d
    using judged as j
    where d.id = j.id and j.outcome <> 'retried'
),
singles as (
    insert into viewing_deliveries (id, created_at, attempts, due_at)
    select e.delivery_id, j.created_at, j.attempts, now()
    from events as e
    cross join judged as j
    where j.outcome = 'split'
),
left_over as (
    update viewing_events as v
    set
        delivery_id = case when j.outcome = 'split' then e.delivery_id end,
        parked_at = case when j.outcome = 'parked' then j.at end
    from events as e
    cross join judged as j
    where v.id = e.id and j.outcome <> 'retried'
)
select
    j.outcome,
    (select count(*)::int from events) as events
from judged as j
