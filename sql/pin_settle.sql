-- Gives back attempts at an account's PIN that nobody will judge, and shortens a lock too long.
--
-- $1 account_id uuid
-- $2 attempt_id uuid               one that is given back at once; null: none
-- $3 attempts int                  as many failures in a row have locked the PIN
-- $4 lock interval                 for so long
-- $5 unfinished interval           an attempt older than this has lost its request
--
-- row: is_settled bool
--
-- No row: there was nothing to do. Runs before an attempt and before the status is shown.
-- An attempt that is given back takes its lock with it: the one that it set itself, and one for
-- which the failures that are left are too few. It does so once, for its row goes; the lock of the
-- account's row keeps two of these statements, and an attempt, from counting at the same time.
-- A lock that ends later than one which begins now comes from a clock that was wrong, or from a
-- longer lock of another application: it is stored anew, and from then on runs out like any other.
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
returning true as is_settled
