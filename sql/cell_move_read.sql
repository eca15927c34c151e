-- Reads all rows of accounts, or of the copies of accounts that arrive: see migration 0039.
--
-- $1 account_ids uuid[]
-- $2 is_copy bool
--
-- row: name text                   of the table
-- row: contents text               its rows, a JSON array
-- row: rows int                    their number
-- row: seconds int8                the sum of what they have counted
select r.name, r.contents, r.rows, r.seconds
from viewing_account_rows($1::uuid[], $2::bool) as r
