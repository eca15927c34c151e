-- Lists the schedule of a profile for export: one row, or none.
--
-- $1 profile_id uuid
--
-- row: daily_limits json           minutes by day of the week, null is unlimited; null: none set
-- row: downtime json               windows, each with its days, start and end
-- row: weekly_limit_minutes int    null: no weekly limit
-- row: week_starts_on text
-- row: rollover_max_minutes int
-- row: finish_minutes int
-- row: updated_at timestamptz
--
-- `jsonb` sorts members by their length, so the readable order is made here, as `json`.
-- Uses viewing_schedules_pkey.
select
    (
        select json_object_agg(d.name, h.daily_limits -> d.name order by d.place)
        from unnest(array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'])
            with ordinality as d (name, place)
        where h.daily_limits ? d.name
    ) as daily_limits,
    (
        select coalesce(
            json_agg(
                json_build_object(
                    'days', w.part -> 'days', 'start', w.part -> 'start', 'end', w.part -> 'end'
                )
                order by w.place
            ),
            '[]'
        )
        from jsonb_array_elements(h.downtime) with ordinality as w (part, place)
    ) as downtime,
    h.weekly_limit_minutes,
    h.week_starts_on,
    h.rollover_max_minutes,
    h.finish_minutes,
    h.updated_at
from viewing_schedules as h
where h.profile_id = $1::uuid
