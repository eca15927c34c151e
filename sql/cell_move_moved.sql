-- Finds which accounts have moved from this cell to another one.
--
-- $1 account_ids uuid[]
-- $2 target text                   name of the other cell
--
-- row: account_id uuid
-- row: epoch int8
select
    e.id as account_id,
    e.epoch
from viewing_cell_accounts as e
where e.id = any ($1::uuid[]) and e.cell = $2::text and e.state <> 'arrives'
