-- Notes that accounts have arrived in this cell.
--
-- $1 account_ids uuid[]
-- $2 cell text                     name of this cell
-- $3 epoch int8                    of their entries in the cell that they left
--
-- row: account_id uuid
update viewing_cell_accounts as e
set cell = $2::text, epoch = $3::int8, state = 'lives'
where e.id = any ($1::uuid[]) and e.state = 'arrives'
returning e.id as account_id
