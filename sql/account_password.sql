-- Reads the hash of an account's password, to check one against it.
--
-- $1 account_id uuid
--
-- row: is_active bool              the account may ask
-- row: password_hash text
--
-- No row: the account is unknown. One row by primary key; the hash goes no further than the
-- process that checks it.
select
    u.is_active,
    u.password_hash
from users as u
where u.id = $1::uuid
