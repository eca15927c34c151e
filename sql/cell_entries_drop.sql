-- Deletes entries of accounts that are in the cell that has their slot.
--
-- $1 account_ids uuid[]
--
-- row: account_id uuid
delete from viewing_cell_accounts as e
where e.id = any ($1::uuid[]) and e.state = 'lives'
returning e.id as account_id
