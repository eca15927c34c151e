-- Lists accounts of some slots that are in this cell, as the map says.
--
-- $1 slots int[]
-- $2 after uuid                    the last account of the page before
-- $3 max_rows int
--
-- row: account_id uuid
-- row: size int                    rows that a move copies, about
-- row: is_admin bool
--
-- Left out are accounts that were moved here on their own, those that arrive, and mirrors.
-- Reads accounts by their primary key, because nothing else needs an index by slot.
select
    u.id as account_id,
    (
        10
        + (
            select count(*)
            from profiles as p
            join viewing_sessions as s on s.profile_id = p.id
            where p.user_id = u.id
        )
        + (
            select count(*)
            from profiles as p
            join viewing_time_balances as b on b.profile_id = p.id
            where p.user_id = u.id
        )
    )::int as size,
    u.is_admin
from users as u
where u.id > $2::uuid
    and viewing_cell_slot(u.id) = any ($1::int[])
    and not exists (select from viewing_cell_accounts as e where e.id = u.id)
order by u.id
limit $3::int
