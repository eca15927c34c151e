-- Finds the accounts that may still follow their events.
--
-- $1 account_ids uuid[]
--
-- row: account_id uuid             it exists and is active
--
-- Index: the primary key, one row for each id.
select u.id as account_id
from users as u
where u.id = any($1::uuid[]) and u.is_active
