-- Finds who has profiles and e-mail addresses in a cell.
--
-- $1 profile_ids uuid[]
-- $2 emails text[]
--
-- row: account_id uuid             has the profile or the e-mail address
-- row: profile_id uuid             null: it is an e-mail address
-- row: email text                  null: it is a profile
-- row: is_pending bool             the profile is being deleted
--
-- Each cell keeps both unique for itself only, so imports and PUTs ask the other cells.
select
    p.user_id as account_id,
    p.id as profile_id,
    null::text as email,
    exists (
        select from pending_deletions as d where d.kind = 'profile' and d.id = p.id
    ) as is_pending
from profiles as p
where p.id = any ($1::uuid[])
union all
select u.id as account_id, null::uuid as profile_id, u.email::text as email, false as is_pending
from users as u
where u.email = any ($2::text[])
