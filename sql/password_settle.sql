-- Gives back unfinished attempts at an account's password.
--
-- $1 account_id uuid
-- $2 attempt_id uuid               an attempt that is given back at once; null: none
-- $3 unfinished interval           age at which an attempt has lost its request
--
-- row: is_done bool
--
-- No row: there was nothing to do. Runs before an attempt. Giving back an attempt lowers the count
-- and ends the delay that the attempt has set.
with due as materialized (
    select a.id
    from viewing_time_attempts as a
    where a.account_id = $1::uuid
        and a.is_password
        and (
            a.id = $2::uuid
            or a.begun_at not between now() - $3::interval and now() + $3::interval
        )
),
held as materialized (
    select
        f.account_id,
        f.failures,
        f.next_attempt_at
    from viewing_time_password_failures as f
    where f.account_id = $1::uuid and exists (select from due)
    for no key update
),
returned as (
    delete from viewing_time_attempts as a
    using due as d
    where a.id = d.id and (select count(*) from held) >= 0
    returning a.is_forgiven, a.locked_until
),
given as (
    select
        count(*)::int as attempts,
        array_agg(r.locked_until) as locks,
        now() as at
    from returned as r
    where not r.is_forgiven
)
update viewing_time_password_failures as f
set
    failures = greatest(0, h.failures - g.attempts),
    next_attempt_at = case
        when h.next_attempt_at = any(g.locks) then g.at
        else h.next_attempt_at
    end
from held as h
cross join given as g
where f.account_id = h.account_id
returning true as is_done
