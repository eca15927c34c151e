-- Locks every row of the accounts until the transaction ends: see migration 0039.
--
-- $1 account_ids uuid[]
--
-- row: is_held bool                false: repeat the transaction
select viewing_account_hold($1::uuid[]) as is_held
