-- Counts what a cell has.
--
-- row: accounts int8
-- row: moved_in int8               accounts that were moved here on their own
-- row: moved_out int8              accounts whose entry names another cell
-- row: mirrors int8                of administrators
-- row: arriving int8               copies of accounts whose move was interrupted
select
    (select count(*) from users as u)
        - count(*) filter (where e.state <> 'lives' and exists (select from users as u where u.id = e.id))
        as accounts,
    count(*) filter (where e.state = 'lives' and e.cell = c.name) as moved_in,
    count(*) filter (where e.state = 'lives' and e.cell <> c.name) as moved_out,
    count(*) filter (where e.state = 'mirror') as mirrors,
    count(*) filter (where e.state = 'arrives') as arriving
from viewing_cell as c
left join viewing_cell_accounts as e on true
