-- Lists the lock of a profile for export: one row, or none. A lock that has ended is listed too.
--
-- $1 profile_id uuid
--
-- row: locked_until timestamptz
-- row: locked_at timestamptz
--
-- Uses viewing_locks_pkey.
select
    l.locked_until,
    l.locked_at
from viewing_locks as l
where l.profile_id = $1::uuid
