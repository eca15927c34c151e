-- Finds which profiles and e-mail addresses of a batch a cell has already.
--
-- $1 profile_ids uuid[]
-- $2 emails text[]
--
-- row: id uuid                     of the profile or the account
-- row: email text                  of the account; null: it is a profile
--
-- Each cell keeps both unique for itself only, so an import asks the other cells.
select p.id, null::text as email
from profiles as p
where p.id = any ($1::uuid[])
union all
select u.id, u.email::text as email
from users as u
where u.email = any ($2::text[])
