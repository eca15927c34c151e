-- Counts accounts that this cell has, though they live in another one.
--
-- row: accounts int8
--
-- An administrator of another cell is here too, as a mirror without profiles.
select count(*) as accounts
from viewing_cell_accounts as a
join users as u on u.id = a.id
where (a.state = 'lives' and a.cell <> (select c.name from viewing_cell as c))
    or (a.state = 'mirror' and exists (select from profiles as p where p.user_id = a.id))
