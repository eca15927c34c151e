-- Returns since when an account is strict.
--
-- $1 account_id uuid               the caller
--
-- row: is_active bool              the account is active
-- row: since timestamptz           null: the account is not strict
--
-- No row: the account is unknown. Two rows by primary key.
select
    u.is_active,
    s.since
from users as u
left join viewing_strict_accounts as s on s.account_id = u.id
where u.id = $1::uuid
