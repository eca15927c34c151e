-- Writes where another cell says that accounts are, unless this cell knows better.
--
-- $1 account_ids uuid[]            in step with the next two
-- $2 cells text[]                  names
-- $3 epochs int8[]
--
-- row: account_id uuid             changed here
insert into viewing_cell_accounts as e (id, cell, epoch, state)
select n.id, n.cell, n.epoch, 'lives'
from unnest($1::uuid[], $2::text[], $3::int8[]) as n (id, cell, epoch)
on conflict (id) do update
set cell = excluded.cell, epoch = excluded.epoch
where e.state = 'lives' and e.epoch < excluded.epoch
returning e.id as account_id
