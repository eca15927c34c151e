-- Tells whether an account has a PIN and until when it is locked.
--
-- $1 account_id uuid               who asks
-- $2 now timestamptz
--
-- row: is_active bool              the account may ask
-- row: has_pin bool
-- row: locked_until timestamptz    null: not locked at $2
--
-- No row: the account is unknown. One row by primary key.
select
    u.is_active,
    u.pin_hash is not null as has_pin,
    case when u.pin_lockout_until > $2::timestamptz then u.pin_lockout_until end as locked_until
from users as u
where u.id = $1::uuid
