-- Claims batches that are due, and reads their events.
--
-- $1 max_deliveries int
-- $2 lease_seconds float8          longer than an attempt takes
--
-- row: event_id uuid
-- row: position int8
-- row: account_id uuid
-- row: profile_id uuid             null: the event is about the account
-- row: type text
-- row: occurred_at timestamptz
-- row: data text
-- row: delivery_id uuid            rows are ordered by it, then by position
-- row: attempts int                with this one; ends the attempt only while it is the latest
-- row: created_at timestamptz      of the batch
-- row: claimed_at timestamptz
--
-- Instances skip what others lock. A claim commits before the batch is sent, so no lock is held
-- meanwhile; the batch of an instance that dies is due again after the lease.
-- After a batch has been split, its events are sent one by one. An event waits until no earlier one
-- of its profile is open. A batch whose events were all erased is deleted.
-- Indexes: ix_ve_sending once for each open delivery.
with sending as materialized (
    select
        d.id,
        first_value(d.id) over (partition by o.owner_id order by o.position) = d.id as is_first
    from viewing_deliveries as d
    cross join lateral (
        select e.position, coalesce(e.profile_id, e.account_id) as owner_id
        from viewing_events as e
        where e.delivery_id = d.id
        offset 0
    ) as o
),
ready as materialized (
    select s.id
    from sending as s
    group by s.id
    having bool_and(s.is_first)
),
due as materialized (
    select d.id
    from viewing_deliveries as d
    where d.due_at <= now() and d.id in (select r.id from ready as r)
    order by d.due_at
    limit $1::int
    for no key update skip locked
),
claimed as (
    update viewing_deliveries as d
    set attempts = d.attempts + 1, due_at = now() + make_interval(secs => $2::float8)
    from due
    where d.id = due.id
    returning d.id, d.attempts, d.created_at
),
emptied as (
    delete from viewing_deliveries as d
    where d.due_at <= now() and d.id not in (select s.id from sending as s)
)
select
    e.event_id,
    e.position,
    e.account_id,
    e.profile_id,
    e.type,
    e.occurred_at,
    e.data,
    c.id as delivery_id,
    c.attempts,
    c.created_at,
    now() as claimed_at
from claimed as c
cross join lateral (
    select
        v.id as event_id,
        v.position,
        v.account_id,
        v.profile_id,
        v.type,
        v.occurred_at,
        v.data::text as data
    from viewing_events as v
    where v.delivery_id = c.id
    offset 0
) as e
order by c.id, e.position
