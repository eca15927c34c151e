-- Stores the response to a request with an Idempotency-Key, in the transaction of its change.
--
-- $1 account_id uuid
-- $2 mark uuid                     hash of the key
-- $3 digest bytea                  HMAC of the request
-- $4 status int
-- $5 answer text
-- $6 max_keys int                  of an account; the oldest are deleted
--
-- row: is_kept bool
--
-- No row: another request with the key was faster, so this one must be rolled back. Of two requests
-- at once, the second waits at the primary key until the first has ended. A key older than 24 hours
-- counts as new.
-- Also deletes some expired rows of any account, so that none stay for long, and skips rows that
-- another transaction is deleting.
with kept as (
    insert into viewing_time_request_keys as k (
        account_id, mark, digest, status, answer, created_at
    )
    values ($1::uuid, $2::uuid, $3::bytea, $4::int, $5::text, now())
    on conflict (account_id, mark) do update
    set
        digest = excluded.digest,
        status = excluded.status,
        answer = excluded.answer,
        created_at = excluded.created_at
    where excluded.created_at - k.created_at >= interval '24 hours'
    returning true as is_kept
),
old as (
    select x.account_id, x.mark
    from viewing_time_request_keys as x
    where x.created_at <= now() - interval '24 hours'
        and (x.account_id, x.mark) <> ($1::uuid, $2::uuid)
    order by x.created_at
    limit 10
    for update skip locked
),
surplus as (
    select x.account_id, x.mark
    from viewing_time_request_keys as x
    where x.account_id = $1::uuid and x.mark <> $2::uuid
    order by x.created_at desc
    offset $6::int - 1
    limit 10
),
gone as (
    delete from viewing_time_request_keys as x
    where (x.account_id, x.mark) in (
        select o.account_id, o.mark from old as o
        union
        select s.account_id, s.mark from surplus as s
    )
)
select k.is_kept
from kept as k
