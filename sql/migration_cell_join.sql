-- Makes the tables a cell, unless they are one already, and returns the name that they have.
--
-- $1 cell text                     name
--
-- row: name text
--
-- The trigger that the function creates locks the table of accounts. The limit keeps logins from waiting
-- behind it for longer than milliseconds; the caller tries again.
select viewing_cell_join(w.cell)::text as name
from (
    select
        $1::text as cell,
        set_config('lock_timeout', '50ms', true) as lock_timeout
    offset 0
) as w
where w.lock_timeout <> ''
