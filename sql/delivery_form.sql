-- Forms the next batch for the webhook from the first events that may be sent.
--
-- $1 max_seen int                  unsent events that are looked at
-- $2 max_events int                of the batch
-- $3 max_batches int               open at the same time
-- $4 max_deliveries int            likewise, with single events that have failed repeatedly
-- $5 split_attempts int            a batch is split after this number of failures
--
-- row: events int                  0: nothing may be sent now
--
-- Runs in a transaction that has locked the feed (event_feed_lock), so that only one instance forms
-- batches, and sees those that were formed before.
-- The events of a profile must arrive in their order. Those of a profile with an event in an open
-- batch therefore wait; events about the account count as those of one more profile. Single events
-- that fail for a day do not count as batches, or a few of them would stop all others. A child
-- can cause thousands of events that wait, so the search passes over them until the batch is full.
-- `webhook_from` moves up to the first event that is left, so that later searches do not read the
-- dead entries of events that have been sent. Indexes: ix_ve_unsent, and ix_ve_sending once for each
-- open delivery.
with sending as materialized (
    select d.id, d.attempts, o.owner_id
    from viewing_deliveries as d
    cross join lateral (
        select coalesce(e.profile_id, e.account_id) as owner_id
        from viewing_events as e
        where e.delivery_id = d.id
        offset 0
    ) as o
),
open as materialized (
    select s.id, s.attempts < $5::int or count(*) > 1 as is_batch
    from sending as s
    group by s.id, s.attempts
),
chosen as materialized (
    select u.id, u.position
    from viewing_event_feed as f
    cross join lateral (
        select w.id, w.position
        from (
            select e.id, e.position, coalesce(e.profile_id, e.account_id) as owner_id
            from viewing_events as e
            where e.position > f.webhook_from
                and e.delivery_id is null and e.delivered_at is null and e.parked_at is null
            order by e.position
            limit $1::int
        ) as w
        where w.owner_id not in (select s.owner_id from sending as s)
        order by w.position
        limit $2::int
    ) as u
    where (
        select count(*) filter (where o.is_batch) < $3::int and count(*) < $4::int
        from open as o
    )
),
formed as (
    insert into viewing_deliveries (id, created_at, attempts, due_at)
    select viewing_event_id(), now(), 0, now()
    where exists (select from chosen)
    returning id
),
moved as (
    update viewing_event_feed as f
    set webhook_from = coalesce(
        (
            select e.position - 1
            from viewing_events as e
            where e.position > f.webhook_from
                and e.delivery_id is null and e.delivered_at is null and e.parked_at is null
                and e.id not in (select c.id from chosen as c)
            order by e.position
            limit 1
        ),
        (select max(c.position) from chosen as c)
    )
    where exists (select from chosen)
    returning f.webhook_from
),
taken as (
    update viewing_events as e
    set delivery_id = f.id
    from chosen as c
    cross join formed as f
    where e.id = c.id
    returning e.id
)
select count(*)::int as events
from taken
