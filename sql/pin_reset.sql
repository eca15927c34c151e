-- Stores a new PIN for a parent who proved to know the account's password.
--
-- $1 account_id uuid
-- $2 password_hash text            the hash that the password was checked against
-- $3 new_hash text
--
-- row: is_set bool
--
-- Clears failures and lock. No row: the account is unknown or inactive, or its password has
-- changed since $2 was read.
update users as u
set
    pin_hash = $3::text,
    pin_failed_attempts = 0,
    pin_lockout_until = null
where u.id = $1::uuid and u.is_active and u.password_hash = $2::text
returning true as is_set
