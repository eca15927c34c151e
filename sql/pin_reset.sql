-- Stores a new PIN after a correct account password.
--
-- $1 account_id uuid
-- $2 password_hash text            the hash that the password was checked against
-- $3 new_hash text
-- $4 attempt_id uuid               the correct attempt at the password
--
-- row: is_done bool
--
-- Clears the failures and the lock of the PIN and of the password, and marks unfinished attempts, so
-- that giving them back changes nothing. No row: the account is unknown or inactive, or its password
-- has changed since $2 was read. Locks the count of the password before the attempts, in the order
-- of `password_settle`.
with changed as (
    update users as u
    set
        pin_hash = $3::text,
        pin_failed_attempts = 0,
        pin_lockout_until = null
    where u.id = $1::uuid and u.is_active and u.password_hash = $2::text
    returning u.id
),
forgotten as (
    delete from viewing_time_password_failures as f
    using changed as c
    where f.account_id = c.id
    returning f.account_id
),
judged as (
    delete from viewing_time_attempts as a
    using changed as c
    where a.id = $4::uuid and a.account_id = c.id and (select count(*) from forgotten) >= 0
),
forgiven as (
    update viewing_time_attempts as a
    set is_forgiven = true
    from changed as c
    where a.account_id = c.id and a.id <> $4::uuid and (select count(*) from forgotten) >= 0
)
select true as is_done
from changed as c
