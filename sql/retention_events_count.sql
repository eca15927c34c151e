-- Counts expired events, oldest first.
--
-- $1 from_id uuid                  the ids after this one
-- $2 max_rows int                  maximum number of events to count
-- $3 before timestamptz            events older than this are expired
--
-- row: events int
-- row: undelivered int             the webhook should have received them
-- row: next_id uuid                start of the next batch; null after the last one
--
-- Applies the conditions of retention_events, and uses the same index.
with expired as materialized (
    select v.id, v.position, v.delivery_id, v.delivered_at, v.parked_at
    from viewing_events as v
    where v.id > $1::uuid
        and v.id < rpad(
            lpad(to_hex((extract(epoch from $3::timestamptz) * 1000)::int8), 12, '0'), 32, '0'
        )::uuid
    order by v.id
    limit $2::int
)
select
    count(*)::int as events,
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
        when count(*) = $2::int
        then (select x.id from expired as x order by x.id desc limit 1)
    end as next_id
from expired as d
left join viewing_event_feed as f on f.is_only
