-- Takes one attempt at an account's password, before anybody computes a hash.
--
-- $1 account_id uuid               who asks
-- $2 attempt_id uuid               the attempt's own
-- $3 free int                      so many failures in a row cost no delay
-- $4 longest interval              no delay is longer
--
-- row: is_active bool              the account may ask
-- row: password_hash text          null unless the attempt was taken
-- row: retry_after_seconds int     null unless the attempt came too early
--
-- No row: the account is unknown. The hash goes no further than the process that checks it.
-- Every failure beyond $3 doubles the delay before the next, from one second on: for all instances
-- together, by this server's clock, and without a lock of the PIN. The upsert lets parallel
-- attempts in one by one, as in `pin_attempt`. A delay that ends later than the longest one would
-- comes from a clock that was wrong, and is over.
-- `clock_timestamp`, because an attempt that waited for another one is older than what that one
-- wrote, and would come too early without any delay.
-- An attempt that was taken leaves a row in `viewing_time_attempts` until it is judged: see
-- `attempt_judge` and `password_settle`.
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
            when f.failures < $3::int then now()
            else now() + least($4::interval, interval '1 second' * 2 ^ least(f.failures - $3::int, 30))
        end
    where f.next_attempt_at <= clock_timestamp() or f.next_attempt_at > now() + $4::interval
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
