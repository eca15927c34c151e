-- Stores a new PIN; the current one, if there is one, was verified before.
--
-- $1 account_id uuid
-- $2 old_hash text                 the hash that was checked; null: the account has no PIN
-- $3 new_hash text
--
-- row: is_done bool
--
-- Clears failures and lock, and marks unfinished attempts, so that giving them back changes nothing.
-- No row: the account is unknown or inactive, or its PIN has changed since $2 was read. Of two
-- concurrent first PINs only one is stored.
with changed as (
    update users as u
    set
        pin_hash = $3::text,
        pin_failed_attempts = 0,
        pin_lockout_until = null
    where u.id = $1::uuid and u.is_active and u.pin_hash is not distinct from $2::text
    returning u.id
),
forgiven as (
    update viewing_time_attempts as a
    set is_forgiven = true
    from changed as c
    where a.account_id = c.id and not a.is_password
)
select true as is_done
from changed as c
