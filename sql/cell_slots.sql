-- Lists which cell has each slot of accounts, as this cell knows it.
--
-- row: slot int
-- row: cell text                   name
-- row: epoch int8                  of two rows of a slot, the higher one counts
select
    s.slot,
    s.cell::text as cell,
    s.epoch
from viewing_cell_slots as s
order by s.slot
