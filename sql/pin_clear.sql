-- Clears the failures of an account after a correct PIN.
--
-- $1 account_id uuid
-- $2 pin_hash text                 the hash that the PIN was checked against
-- $3 attempt_id uuid               the correct attempt
--
-- row: is_done bool
--
-- No row: the PIN was replaced while the old one was being checked, so the check is not valid.
-- Other unfinished attempts are marked, so that giving them back does not lower the count.
with cleared as (
    update users as u
    set
        pin_failed_attempts = 0,
        pin_lockout_until = null
    where u.id = $1::uuid and u.pin_hash = $2::text
    returning u.id
),
judged as (
    delete from viewing_time_attempts as a
    using cleared as c
    where a.id = $3::uuid and a.account_id = c.id
),
forgiven as (
    update viewing_time_attempts as a
    set is_forgiven = true
    from cleared as c
    where a.account_id = c.id and a.id <> $3::uuid and not a.is_password
)
select true as is_done
from cleared as c
