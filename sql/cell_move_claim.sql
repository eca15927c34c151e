-- Locks what a PUT looks for in every cell (see record_claim), for the accounts that arrive.
--
-- $1 account_ids uuid[]            written by this transaction
--
-- row: locks int8
--
-- A PUT that has looked in this cell before still finds the accounts in the cell that they leave,
-- because this transaction waits until it has ended.
select
    count(
        pg_advisory_xact_lock(
            hashtextextended(concat_ws(' ', 'viewing-time record', c.name, lower(r.value)), 0)
        )::text
    ) as locks
from viewing_cell as c
cross join (
    select u.email::text as value
    from users as u
    where u.id = any ($1::uuid[])
    union all
    select p.id::text as value
    from profiles as p
    where p.user_id = any ($1::uuid[])
) as r
