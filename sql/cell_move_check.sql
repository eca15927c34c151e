-- Reads what decides whether accounts of this cell can be moved.
--
-- $1 account_ids uuid[]
--
-- row: account_id uuid
-- row: is_here bool                the account is in this cell
-- row: is_admin bool
-- row: is_pending bool             the account, or a profile of it, is being deleted
-- row: has_others bool             grants connect it with another account
-- row: moved_to text               the cell that it was moved to; null: none
-- row: epoch int8                  for its next entry, higher than all before: milliseconds since 1970
--
-- Runs after cell_move_hold, as a statement of its own, so it sees what the locks have waited for.
select
    a.id as account_id,
    u.id is not null and coalesce(e.state, 'lives') = 'lives' as is_here,
    coalesce(u.is_admin, false) as is_admin,
    exists (
        select
        from pending_deletions as d
        where d.kind = 'account' and d.id = a.id
            or d.kind = 'profile'
            and d.id in (select p.id from profiles as p where p.user_id = a.id)
    ) as is_pending,
    exists (
        select
        from time_grants as g
        join profiles as p on p.id = g.profile_id
        where g.granted_by_user_id = a.id and p.user_id <> a.id
    )
    or exists (
        select
        from profiles as p
        join time_grants as g on g.profile_id = p.id
        where p.user_id = a.id and g.granted_by_user_id <> a.id
    ) as has_others,
    case when e.state <> 'arrives' and e.cell <> c.name then e.cell::text end as moved_to,
    greatest(
        coalesce(e.epoch, 0) + 1, (extract(epoch from clock_timestamp()) * 1000)::int8
    ) as epoch
from unnest($1::uuid[]) as a (id)
cross join viewing_cell as c
left join users as u on u.id = a.id
left join viewing_cell_accounts as e on e.id = a.id
