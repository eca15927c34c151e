-- Returns whether an account has a PIN and until when it is locked.
--
-- $1 account_id uuid               the caller
--
-- row: is_active bool              the account is active
-- row: has_pin bool
-- row: locked_until timestamptz    end of the latest lock, which may have passed; null: no lock
--
-- No row: the account is unknown. One row by primary key; `pin_settle` runs before.
select
    u.is_active,
    u.pin_hash is not null as has_pin,
    u.pin_lockout_until as locked_until
from users as u
where u.id = $1::uuid
