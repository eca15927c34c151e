-- Finds where a cell has moved an account, for a request that did not find it there.
--
-- $1 account_id uuid
-- $2 slot int                      of the account
--
-- row: account_cell text           name; null: the account has not been moved on its own
-- row: account_epoch int8
-- row: has_entry bool              false: the cell knows nothing of the account
-- row: slot_cell text              name; null: the cell has no map
-- row: slot_epoch int8
select
    case when a.state <> 'arrives' then a.cell::text end as account_cell,
    case when a.state <> 'arrives' then a.epoch end as account_epoch,
    a.id is not null as has_entry,
    s.cell::text as slot_cell,
    s.epoch as slot_epoch
from (values ($1::uuid, $2::int)) as w (account_id, slot)
left join viewing_cell_accounts as a on a.id = w.account_id
left join viewing_cell_slots as s on s.slot = w.slot
