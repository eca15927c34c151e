-- Counts one attempt at an account's password, before its hash is computed.
--
-- $1 account_id uuid               the caller
-- $2 attempt_id uuid               id of the new attempt
-- $3 free int                      this many failures in a row cause no delay
-- $4 longest interval              the longest delay
--
-- row: is_active bool              the account is active
-- row: password_hash text          null unless the attempt was counted
-- row: retry_after_seconds int     null unless the attempt came too early
--
-- No row: the account is unknown.
-- Every failure beyond $3 doubles the delay before the next attempt, from one second on, for all
-- instances together and by the database's clock. It does not lock the PIN. The upsert serializes
-- parallel attempts, as in `pin_attempt`. A delay that ends later than the longest possible one was
-- set by a wrong clock, and does not count.
-- After a wait for another attempt, this time is older than the one that the other has written, so
-- without a delay, which is at least one second, less than a second is not too early.
-- Citus allows only immutable functions where an insert meets a row, so the time is that of the new row.
-- A counted attempt has a row in `viewing_time_attempts` until it is judged: see `attempt_judge` and
-- `password_settle`.
with owner as (
    select
        u.id as account_id,
        u.is_active,
        u.password_hash
    from users as u
    where u.id = $1::uuid
),
taken as (
    insert into viewing_time_password_failures as f (account_id, failures, next_attempt_at)
    select
        o.account_id,
        1,
        now()
    from owner as o
    where o.is_active
    on conflict (account_id) do update
    set
        failures = f.failures + 1,
        next_attempt_at = case
            when f.failures < $3::int then excluded.next_attempt_at
            else (
                excluded.next_attempt_at at time zone 'UTC'
                + least($4::interval, interval '1 second' * 2 ^ least(f.failures - $3::int, 30))
            ) at time zone 'UTC'
        end
    where f.failures <= $3::int and f.next_attempt_at - excluded.next_attempt_at < interval '1 second'
        or f.next_attempt_at <= excluded.next_attempt_at
        or f.next_attempt_at - excluded.next_attempt_at > $4::interval
    returning f.account_id, f.next_attempt_at
),
begun as (
    insert into viewing_time_attempts (id, account_id, is_password, begun_at, locked_until)
    select
        $2::uuid,
        t.account_id,
        true,
        now(),
        t.next_attempt_at
    from taken as t
)
select
    o.is_active,
    case when t.account_id is not null then o.password_hash end as password_hash,
    case
        when t.account_id is null
            then greatest(1, ceil(extract(epoch from f.next_attempt_at - now())))::int
    end as retry_after_seconds
from owner as o
left join taken as t on true
left join viewing_time_password_failures as f on f.account_id = o.account_id
