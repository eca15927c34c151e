-- Deletes all rows of accounts that have been copied: see migration 0039.
--
-- $1 account_ids uuid[]
--
-- row: rows int
select viewing_account_remove($1::uuid[]) as rows
