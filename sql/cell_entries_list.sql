-- Lists the accounts of some slots that are not in the cell that has their slot.
--
-- $1 slots int[]
--
-- row: account_id uuid
-- row: cell text                   where the account is
-- row: epoch int8
select
    e.id as account_id,
    e.cell::text as cell,
    e.epoch
from viewing_cell_accounts as e
where e.state <> 'arrives' and viewing_cell_slot(e.id) = any ($1::int[])
