-- Records one heartbeat of a session and returns what its answer needs.
--
-- The statement of the peers: as one writes it for a single heartbeat, without arrays, and with the
-- viewing day computed by the database. It has the service's rules for a daily limit.
--
-- $1 account_id uuid
-- $2 profile_id uuid
-- $3 title_id uuid
-- $4 session_id uuid
-- $5 is_paused bool
-- $6 balance_id uuid               of a new balance
--
-- row: is_educational bool
-- row: is_child bool
-- row: limit_minutes int           null is unlimited
-- row: used_seconds int            null: an adult
-- row: is_unlimited bool           a parent has lifted the limit for today
--
-- No row: one of the ids is not the caller's.
with beat as materialized (
    select
        p.id as profile_id,
        p.is_kids is true as is_child,
        t.is_educational is true as is_educational,
        t.is_educational is true and coalesce(c.educational_exempt, true) as is_exempt,
        (
            now() at time zone coalesce(c.timezone, 'UTC')
            - make_interval(hours => coalesce(c.reset_hour, 6))
        )::date as day,
        c.weekday_limit_minutes,
        c.weekend_limit_minutes,
        case
            when s.paused_at is null or now() - s.paused_at <= interval '300 seconds' then 30
            else 0
        end as seconds
    from users as u
    join profiles as p on p.user_id = u.id
    join titles as t on t.id = $3::uuid
    join viewing_sessions as s on s.id = $4::uuid and s.profile_id = p.id
    left join viewing_time_configs as c on c.profile_id = p.id
    where u.id = $1::uuid and u.is_active and p.id = $2::uuid
),
continued as (
    update viewing_sessions as s
    set
        last_heartbeat_at = now(),
        total_seconds = coalesce(s.total_seconds, 0) + b.seconds,
        paused_at = case when $5::bool then coalesce(s.paused_at, now()) end
    from beat as b
    where s.id = $4::uuid
),
balance as (
    insert into viewing_time_balances as v (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        updated_at
    )
    select
        $6::uuid,
        b.profile_id,
        b.day,
        case when b.is_exempt then 0 else b.seconds end,
        case when b.is_exempt then b.seconds else 0 end,
        false,
        now()
    from beat as b
    where b.is_child
    on conflict (profile_id, reset_date) do update
    set
        used_seconds = v.used_seconds + excluded.used_seconds,
        educational_seconds = v.educational_seconds + excluded.educational_seconds,
        updated_at = excluded.updated_at
    returning v.used_seconds, v.is_unlimited_override
)
select
    b.is_educational,
    b.is_child,
    case
        when extract(isodow from b.day) >= 6 then b.weekend_limit_minutes
        else b.weekday_limit_minutes
    end as limit_minutes,
    v.used_seconds,
    coalesce(v.is_unlimited_override, false) as is_unlimited
from beat as b
left join balance as v on true
