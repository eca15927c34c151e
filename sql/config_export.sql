-- Lists the configuration of a profile for export: one row, or none.
--
-- $1 profile_id uuid
--
-- row: weekday_limit_minutes int   null: unlimited
-- row: weekend_limit_minutes int   null: unlimited
-- row: reset_hour int
-- row: educational_exempt bool
-- row: timezone text
-- row: updated_at timestamptz
-- row: day_floor date              null: no change of zone or reset hour in a strict account
--
-- Uses uq_vtc_profile.
select
    c.weekday_limit_minutes,
    c.weekend_limit_minutes,
    c.reset_hour,
    c.educational_exempt,
    c.timezone,
    c.updated_at,
    c.day_floor
from viewing_time_configs as c
where c.profile_id = $1::uuid
