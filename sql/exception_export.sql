-- Lists every exception of a profile for export, newest day first.
--
-- $1 profile_id uuid
--
-- row: viewing_day date
-- row: changes_limit bool          false: the usual limit of the day applies
-- row: limit_minutes int           null with changes_limit: unlimited
-- row: lifts_downtime bool
-- row: updated_at timestamptz
--
-- Reads viewing_exceptions_pkey in order.
select
    e.day as viewing_day,
    e.changes_limit,
    e.limit_minutes,
    e.lifts_downtime,
    e.updated_at
from viewing_exceptions as e
where e.profile_id = $1::uuid
order by e.day desc
