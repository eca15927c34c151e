-- Lists accounts whose move to this cell has not ended.
--
-- $1 max_rows int
--
-- row: account_id uuid
-- row: source text                 the cell that they come from
select
    e.id as account_id,
    e.cell::text as source
from viewing_cell_accounts as e
where e.state = 'arrives'
order by e.id
limit $1::int
