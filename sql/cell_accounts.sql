-- Lists the accounts that were moved on their own.
--
-- $1 after uuid                    the last account of the page before
-- $2 max_rows int
--
-- row: account_id uuid
-- row: cell text                   name
-- row: epoch int8                  of two cells' rows of an account, the higher one counts
select
    a.id as account_id,
    a.cell::text as cell,
    a.epoch
from viewing_cell_accounts as a
where a.state <> 'arrives' and a.id > $1::uuid
order by a.id
limit $2::int
