-- Gives back unfinished attempts at an account's PIN, and shortens a lock that is too long.
--
-- $1 account_id uuid
-- $2 attempt_id uuid               an attempt that is given back at once; null: none
-- $3 attempts int                  this many failures in a row lock the PIN
-- $4 locks interval[]              durations of the first lock and of each further one; the last repeats
-- $5 unfinished interval           age at which an attempt has lost its request
--
-- row: is_done bool
--
-- No row: there was nothing to do. Runs before an attempt and before the status is returned.
-- Giving back an attempt lowers the count and removes a lock that the attempt has set, or for which
-- too few failures remain; a lock set by another attempt is shortened to the duration for the
-- failures that remain. The attempt's row is deleted, so this happens once. The lock on the
-- account's row keeps this statement and attempts from changing the count at the same time.
-- A lock that ends later than one that begins now was set by a wrong clock or by another
-- application: it is replaced by a lock that begins now.
with due as materialized (
    select a.id
    from viewing_time_attempts as a
    where a.account_id = $1::uuid
        and not a.is_password
        and (
            a.id = $2::uuid
            or a.begun_at not between now() - $5::interval and now() + $5::interval
        )
),
held as materialized (
    select
        u.id,
        coalesce(u.pin_failed_attempts, 0) as failures,
        u.pin_lockout_until,
        ($4::interval[])[
            least(
                cardinality($4::interval[]),
                greatest($3::int, u.pin_failed_attempts) - $3::int + 1
            )
        ] as lock
    from users as u
    where u.id = $1::uuid
        and (
            u.pin_lockout_until > now() + ($4::interval[])[
                least(
                    cardinality($4::interval[]),
                    greatest($3::int, u.pin_failed_attempts) - $3::int + 1
                )
            ]
            or exists (select from due)
        )
    for no key update
),
returned as (
    delete from viewing_time_attempts as a
    using due as d, held as h
    where a.id = d.id and a.account_id = h.id
    returning a.is_forgiven, a.locked_until
),
given as (
    select
        count(*)::int as attempts,
        array_agg(r.locked_until) as locks
    from returned as r
    where not r.is_forgiven
),
judged as (
    select
        h.id,
        h.failures - g.attempts as failures,
        h.pin_lockout_until = any(g.locks) or h.failures >= $3::int and h.failures - g.attempts < $3::int
            as is_lifted,
        h.pin_lockout_until,
        h.lock,
        ($4::interval[])[
            least(
                cardinality($4::interval[]),
                greatest($3::int, h.failures - g.attempts) - $3::int + 1
            )
        ] as due_lock
    from held as h
    cross join given as g
),
settled as (
    select
        j.id,
        j.failures,
        case
            when j.is_lifted then null
            when j.pin_lockout_until > now() + j.lock then now() + j.due_lock
            else j.pin_lockout_until - (j.lock - j.due_lock)
        end as locked_until
    from judged as j
)
update users as u
set pin_failed_attempts = greatest(0, s.failures), pin_lockout_until = s.locked_until
from settled as s
where u.id = s.id
returning true as is_done
