-- Lists accounts of this cell whose entry says the same as the map.
--
-- $1 max_rows int
--
-- row: account_id uuid
select e.id as account_id
from viewing_cell_accounts as e
join viewing_cell as c on c.name = e.cell
join viewing_cell_slots as s on s.slot = viewing_cell_slot(e.id) and s.cell = e.cell
where e.state = 'lives'
limit $1::int
