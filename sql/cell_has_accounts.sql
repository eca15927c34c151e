-- Checks whether a cell has accounts of its own.
--
-- row: has_accounts bool           mirrors of administrators do not count
select exists (
    select
    from users as u
    where not exists (
        select from viewing_cell_accounts as a where a.id = u.id and a.state = 'mirror'
    )
) as has_accounts
