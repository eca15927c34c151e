-- Counts one attempt at an account's PIN, before its hash is computed.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid               the profile of a grant; null: no grant
-- $3 attempts int                  this many failures in a row lock the PIN
-- $4 locks interval[]              durations of the first lock and of each further one; the last repeats
-- $5 attempt_id uuid               id of the new attempt
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's, or $2 is null
-- row: has_pin bool
-- row: locked_until timestamptz    null unless a lock rejects the attempt
-- row: pin_hash text               null unless the attempt was counted
-- row: locks bool                  the attempt locks the PIN, unless it is correct
--
-- No row: the account is unknown.
-- The row lock of the update serializes parallel attempts, and each sees the count of the one before
-- it. The attempt that reaches the limit sets the lock, so at most $3 hashes are returned until a
-- correct PIN clears the count. An expired lock leaves the count as it is: the next wrong PIN locks
-- again at once. So each failure from the $3rd on sets one lock, and the count tells its duration.
-- Locks use the database's clock, which is the same for all instances.
-- Times are computed before the update: where a cell is a schema of Citus, a `case` of an update must
-- not call the clock.
-- A counted attempt has a row in `viewing_time_attempts` until it is judged: see `attempt_judge` and
-- `pin_settle`.
-- The snapshot, from which a rejected attempt reads `locked_until`, can be older than the lock that
-- an attempt before it has set. Then the result is the lock of the next failure, if it began now.
with owner as (
    select
        u.id as account_id,
        u.is_active,
        $2::uuid is null or exists (
            select from profiles as p where p.id = $2::uuid and p.user_id = u.id
        ) as is_owner,
        u.pin_hash is not null as has_pin,
        u.pin_lockout_until,
        greatest($3::int, u.pin_failed_attempts) - $3::int + 1 as lock,
        coalesce(u.pin_failed_attempts >= $3::int, false)::int as is_further,
        now() as at,
        array(select now() + l.duration from unnest($4::interval[]) as l (duration)) as ends
    from users as u
    where u.id = $1::uuid
),
taken as (
    update users as u
    set
        pin_failed_attempts = coalesce(u.pin_failed_attempts, 0) + 1,
        pin_lockout_until = case
            when coalesce(u.pin_failed_attempts, 0) + 1 >= $3::int
            then o.ends[least(cardinality(o.ends), u.pin_failed_attempts - $3::int + 2)]
            else u.pin_lockout_until
        end
    from owner as o
    where u.id = o.account_id
        and o.is_active
        and o.is_owner
        and u.pin_hash is not null
        and (u.pin_lockout_until is null or u.pin_lockout_until <= o.at)
    returning u.id, u.pin_hash, u.pin_lockout_until, u.pin_failed_attempts >= $3::int as locks
),
begun as (
    insert into viewing_time_attempts (id, account_id, is_password, begun_at, locked_until)
    select
        $5::uuid,
        t.id,
        false,
        now(),
        case when t.locks then t.pin_lockout_until end
    from taken as t
)
select
    o.is_active,
    o.is_owner,
    o.has_pin,
    case
        when t.pin_hash is not null then null
        when o.pin_lockout_until > o.at
        then least(o.pin_lockout_until, o.ends[least(cardinality(o.ends), o.lock)])
        when o.has_pin then o.ends[least(cardinality(o.ends), o.lock + o.is_further)]
    end as locked_until,
    t.pin_hash,
    coalesce(t.locks, false) as locks
from owner as o
left join taken as t on true
