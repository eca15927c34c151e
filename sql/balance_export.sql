-- Lists every balance of a profile for export, newest first.
--
-- $1 profile_id uuid
--
-- row: viewing_day date
-- row: used_seconds int
-- row: educational_seconds int
-- row: is_unlimited_override bool
--
-- Reads uq_vtb_profile_date in order.
select
    b.reset_date as viewing_day,
    b.used_seconds,
    b.educational_seconds,
    b.is_unlimited_override
from viewing_time_balances as b
where b.profile_id = $1::uuid
order by b.reset_date desc
