-- Locks slots that this cell gives away.
--
-- $1 slots int[]
-- $2 cell text                     name of this cell
--
-- row: slot int
--
-- Waits for accounts that are being made in them, see migration 0038. None can be made until the
-- transaction ends.
select s.slot
from viewing_cell_slots as s
where s.slot = any ($1::int[]) and s.cell = $2::text
order by s.slot
for update
