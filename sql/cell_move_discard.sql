-- Deletes the copies of accounts that arrive: their move was interrupted, and they are where they were.
--
-- $1 account_ids uuid[]
--
-- row: rows int                    deleted
--
-- The entry says again where the account is, unless its slot says the same.
with arriving as materialized (
    select e.id, e.cell
    from viewing_cell_accounts as e
    where e.id = any ($1::uuid[]) and e.state = 'arrives'
),
implied as (
    delete from viewing_cell_accounts as e
    using arriving as a
    join viewing_cell_slots as s on s.slot = viewing_cell_slot(a.id) and s.cell = a.cell
    where e.id = a.id
),
returned as (
    update viewing_cell_accounts as e
    set state = 'lives'
    from arriving as a
    join viewing_cell_slots as s on s.slot = viewing_cell_slot(a.id) and s.cell <> a.cell
    where e.id = a.id
)
select viewing_account_remove(coalesce(array_agg(a.id), '{}')) as rows
from arriving as a
