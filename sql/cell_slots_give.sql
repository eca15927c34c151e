-- Gives the slots to another cell whose accounts have all been moved.
--
-- $1 slots int[]                   locked by this transaction, see cell_slots_hold
-- $2 target text                   name of the other cell
--
-- row: slot int
--
-- Accounts that were moved here on their own, and mirrors, stay.
update viewing_cell_slots as s
set cell = $2::text, epoch = s.epoch + 1
where s.slot = any ($1::int[])
    and s.slot not in (
        select viewing_cell_slot(u.id)
        from users as u
        where not exists (select from viewing_cell_accounts as e where e.id = u.id)
    )
returning s.slot
