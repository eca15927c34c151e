-- Finds a table of the platform whose rows a move would delete or leave without their account.
--
-- row: name text                   refers to a table with rows of accounts
--
-- No row: no table is in the way.
select r.relname::text as name
from viewing_account_tables() as t
join pg_constraint as k on k.confrelid = to_regclass(t.name)::oid and k.contype = 'f'
join pg_class as r on r.oid = k.conrelid and not r.relispartition
where not exists (
    select from viewing_account_tables() as o where to_regclass(o.name)::oid = r.oid
)
order by r.relname
limit 1
