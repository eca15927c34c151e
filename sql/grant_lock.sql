-- Locks the balance that a grant has changed, before the grant is undone.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 grant_id uuid
--
-- row: reset_date date             the viewing day of the balance
--
-- No row: there is nothing to lock, and `grant_undo` gives the reason.
-- A new grant writes the balance before its own row, so it waits for this lock. `grant_undo` starts
-- with the lock held and sees every grant that can be committed until it ends. In one statement, an
-- unlimited grant could commit after the snapshot was taken, and its override would be lost.
-- Uses primary keys and uq_vtb_profile_date.
select b.reset_date
from users as u
join profiles as p on p.id = $2::uuid and p.user_id = u.id
join time_grants as g on g.id = $3::uuid and g.profile_id = p.id
join viewing_time_balances as b on b.profile_id = p.id and b.reset_date = g.reset_date
where u.id = $1::uuid and u.is_active
for no key update of b
