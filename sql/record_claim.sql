-- Locks what only one record of all cells may have, until the transaction ends.
--
-- $1 value text                    the id of a profile, or the e-mail address of an account
--
-- row: lock text                   always empty: pg_advisory_xact_lock returns void
--
-- A PUT takes this lock in every cell, in one order, before it looks there: of two at once, the later
-- one finds the record of the earlier one. The cells of one database share its advisory locks.
select
    pg_advisory_xact_lock(
        hashtextextended(concat_ws(' ', 'viewing-time record', c.name, lower($1::text)), 0)
    )::text as lock
from viewing_cell as c
