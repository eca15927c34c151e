-- Notes that accounts stay in this cell when it gives their slots away.
--
-- $1 account_ids uuid[]
--
-- row: account_id uuid
insert into viewing_cell_accounts as e (id, cell, epoch, state)
select a.id, c.name, (extract(epoch from clock_timestamp()) * 1000)::int8, 'lives'
from unnest($1::uuid[]) as a (id)
cross join viewing_cell as c
on conflict (id) do nothing
returning e.id as account_id
