-- Completes the map of slots in a cell; a row with a higher epoch stays.
--
-- $1 slots int[]
-- $2 cells text[]                  by slot: name
-- $3 epochs int8[]                 by slot
insert into viewing_cell_slots as s (slot, cell, epoch)
select w.slot, w.cell, w.epoch
from unnest($1::int[], $2::text[], $3::int8[]) as w (slot, cell, epoch)
order by w.slot
on conflict (slot) do update
set cell = excluded.cell, epoch = excluded.epoch
where s.epoch < excluded.epoch
