-- Gives back unfinished attempts at an account's PIN, and shortens a lock that is too long.
--
-- $1 account_id uuid
-- $2 attempt_id uuid               an attempt that is given back at once; null: none
-- $3 attempts int                  this many failures in a row lock the PIN
-- $4 lock interval                 the duration of a lock
-- $5 unfinished interval           age at which an attempt has lost its request
--
-- row: is_done bool
--
-- No row: there was nothing to do. Runs before an attempt and before the status is returned.
-- Giving back an attempt lowers the count and removes a lock that the attempt has set, or for which
-- too few failures remain. The attempt's row is deleted, so this happens once. The lock on the
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
        u.pin_lockout_until
    from users as u
    where u.id = $1::uuid
        and (u.pin_lockout_until > now() + $4::interval or exists (select from due))
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
)
update users as u
set
    pin_failed_attempts = greatest(0, h.failures - g.attempts),
    pin_lockout_until = case
        when h.pin_lockout_until = any(g.locks) then null
        when h.failures >= $3::int and h.failures - g.attempts < $3::int then null
        when h.pin_lockout_until > now() + $4::interval then now() + $4::interval
        else h.pin_lockout_until
    end
from held as h
cross join given as g
where u.id = h.id
returning true as is_done
