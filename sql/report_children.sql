-- Lists the children of an account with their configurations, for a report in their own days.
--
-- $1 account_id uuid               the caller
-- $2 max_children int
-- $3 after_id uuid                 children after this one, by name and id; null: from the first
--
-- row: is_active bool              the account is active
-- row: is_owner bool               $3 is one of the account's profiles, or null
-- row: profile_id uuid             null (like the rest) in the one row of an account without children
-- row: profile_name text
-- row: weekday_limit_minutes int   null (like the next four) for a child without a configuration
-- row: weekend_limit_minutes int
-- row: reset_hour int
-- row: educational_exempt bool
-- row: timezone text
--
-- No row: the account is unknown. Stores no defaults; the caller adds them.
-- The viewing days of a child follow from its zone and reset hour, so `report_days` sums them with a
-- second statement.
select
    u.is_active,
    $3::uuid is null or a.id is not null as is_owner,
    p.id as profile_id,
    p.name as profile_name,
    c.weekday_limit_minutes,
    c.weekend_limit_minutes,
    c.reset_hour,
    c.educational_exempt,
    c.timezone
from users as u
left join profiles as a on a.id = $3::uuid and a.user_id = u.id
left join lateral (
    select k.id, k.name
    from profiles as k
    where k.user_id = u.id
        and k.is_kids
        and u.is_active
        and ($3::uuid is null or (k.name collate "C", k.id) > (a.name collate "C", a.id))
    order by k.name collate "C", k.id
    limit $2::int
) as p on true
left join viewing_time_configs as c on c.profile_id = p.id
where u.id = $1::uuid
order by p.name collate "C", p.id
