-- Lists every balance of a profile for export, newest first.
--
-- $1 profile_id uuid
--
-- row: viewing_day date
-- row: used_seconds int
-- row: educational_seconds int
-- row: is_unlimited_override bool  a parent lifted the limit
-- row: limit_minutes int           the day's limit, null if it was not kept or there was none
-- row: had_no_limit bool           null if the limit was not kept: no limit has changed since
-- row: extended_minutes int        added to the day's limit by grants; null: none
--
-- Reads uq_vtb_profile_date in order.
select
    b.reset_date as viewing_day,
    b.used_seconds,
    b.educational_seconds,
    b.is_unlimited_override,
    case when b.limit_minutes >= 0 then b.limit_minutes end as limit_minutes,
    b.limit_minutes < 0 as had_no_limit,
    b.extended_minutes
from viewing_time_balances as b
where b.profile_id = $1::uuid
order by b.reset_date desc
