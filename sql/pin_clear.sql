-- Forgets the failures of an account whose PIN was entered right.
--
-- $1 account_id uuid
-- $2 pin_hash text                 the hash that the PIN was checked against
--
-- row: is_cleared bool
--
-- A PIN that was replaced while the old one was being checked stays as the replacement left it:
-- then there is no row, and the old PIN has proved nothing.
update users as u
set
    pin_failed_attempts = 0,
    pin_lockout_until = null
where u.id = $1::uuid and u.pin_hash = $2::text
returning true as is_cleared
