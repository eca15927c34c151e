-- Moves time that was added to viewing days after a change had left them, to the day that it began.
--
-- $1 profile_id uuid
-- $2 old_day date                  the viewing day before the change
-- $3 new_day date                  the viewing day after it
-- $4 now timestamptz
-- $5 id uuid                       of the balance, if the new day has none
--
-- row: is_done bool
--
-- No row: there was nothing to move. Runs after `viewing_config_update` in a strict account, when all
-- instances apply the change, and twice more: a heartbeat that began before counts on the old day, also
-- if it waited in a queue.
-- Locks and values as in `viewing_config_update`. Uses uq_vtb_profile_date and ix_tg_profile.
with held as materialized (
    select
        b.id,
        b.profile_id,
        b.reset_date,
        b.used_seconds,
        b.educational_seconds,
        b.is_unlimited_override,
        b.extended_minutes
    from viewing_time_balances as b
    where b.profile_id = $1::uuid and b.reset_date between $2::date and $3::date
    order by b.reset_date
    for no key update
),
emptied as (
    update viewing_time_balances as b
    set
        used_seconds = 0,
        educational_seconds = 0,
        is_unlimited_override = false,
        extended_minutes = null,
        limit_minutes = 0,
        updated_at = $4::timestamptz
    from held as h
    where b.id = h.id
        and h.reset_date < $3::date
        and (
            h.used_seconds > 0
            or h.educational_seconds > 0
            or h.is_unlimited_override
            or h.extended_minutes > 0
        )
    returning
        h.profile_id, h.used_seconds, h.educational_seconds, h.is_unlimited_override,
        h.extended_minutes
),
granted as (
    update time_grants as g
    set reset_date = $3::date
    where g.profile_id = $1::uuid
        and g.reset_date >= $2::date
        and g.reset_date < $3::date
        and g.undone_at is null
        and (select count(*) from held) > 0
)
insert into viewing_time_balances as b (
    id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
    extended_minutes, updated_at
)
select
    $5::uuid,
    e.profile_id,
    $3::date,
    sum(coalesce(e.used_seconds, 0))::int,
    sum(coalesce(e.educational_seconds, 0))::int,
    bool_or(coalesce(e.is_unlimited_override, false)),
    nullif(sum(coalesce(e.extended_minutes, 0))::int, 0),
    $4::timestamptz
from emptied as e
group by e.profile_id
on conflict (profile_id, reset_date) do update
set
    used_seconds = coalesce(b.used_seconds, 0) + excluded.used_seconds,
    educational_seconds = coalesce(b.educational_seconds, 0) + excluded.educational_seconds,
    is_unlimited_override = b.is_unlimited_override is true or excluded.is_unlimited_override,
    extended_minutes = coalesce(
        b.extended_minutes + excluded.extended_minutes,
        b.extended_minutes,
        excluded.extended_minutes
    ),
    updated_at = excluded.updated_at
returning true as is_done
