-- Writes the rows of accounts that arrive: see migration 0039.
--
-- $1 names text[]                  of the tables, in the order in which they were read
-- $2 contents text[]               their rows, a JSON array each
--
-- row: rows int                    written, except titles
select viewing_account_write($1::text[], $2::text[]) as rows
