-- Deletes expired events, oldest first.
--
-- $1 from_id uuid                  first id
-- $2 max_rows int                  maximum number of events to delete
-- $3 before timestamptz            events older than this are expired
--
-- row: deleted int
-- row: undelivered int             deleted, although the webhook should have received them
-- row: next_id uuid                start of the next batch; null after the last one
--
-- An id begins with the milliseconds of its time by the database's clock, so the primary key has the
-- events in their order, and starting at $1 leaves out the dead rows of the batch before.
-- An event before `webhook_from` that is in no batch and was never parked is from before the first start
-- with a webhook, and is not sent. A locked event is being numbered or delivered, so it is skipped.
with expired as materialized (
    select v.id, v.position, v.delivery_id, v.delivered_at, v.parked_at
    from viewing_events as v
    where v.id >= $1::uuid
        and v.id < rpad(
            lpad(to_hex((extract(epoch from $3::timestamptz) * 1000)::int8), 12, '0'), 32, '0'
        )::uuid
    order by v.id
    limit $2::int
    for update skip locked
),
deleted as (
    delete from viewing_events as v
    using expired as d
    where v.id = d.id
    returning d.position, d.delivery_id, d.delivered_at, d.parked_at
)
select
    count(*)::int as deleted,
    (
        count(*) filter (
            where d.delivered_at is null
                and (
                    d.delivery_id is not null
                    or d.parked_at is not null
                    or d.position > f.webhook_from
                    or d.position is null and f.webhook_from is not null
                )
        )
    )::int as undelivered,
    case
        when (select count(*) from expired) = $2::int
        then (select x.id from expired as x order by x.id desc limit 1)
    end as next_id
from deleted as d
left join viewing_event_feed as f on f.is_only
