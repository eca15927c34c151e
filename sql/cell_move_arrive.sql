-- Notes that accounts arrive in this cell; until they have, the entry says where they come from.
--
-- $1 account_ids uuid[]
-- $2 source text                   name of the cell
-- $3 epoch int8
--
-- row: epoch int8                  $3, or more if this cell has had a higher one
--
-- The mirror of a former administrator of another cell is deleted: its account takes its place.
with mirrors as (
    delete from users as u
    using viewing_cell_accounts as e
    where u.id = any ($1::uuid[]) and e.id = u.id and e.state = 'mirror'
),
entries as (
    insert into viewing_cell_accounts as e (id, cell, epoch, state)
    select a.id, $2::text, $3::int8, 'arrives'
    from unnest($1::uuid[]) as a (id)
    on conflict (id) do update
    set cell = excluded.cell, epoch = greatest(excluded.epoch, e.epoch + 1), state = excluded.state
    returning e.epoch
)
select max(n.epoch) as epoch
from entries as n
