-- Undoes a grant as far as it took effect.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 grant_id uuid
-- $4 has_proof bool                the request has a valid PIN token
-- $5 pin_mark text                 fingerprint of the PIN in it; null: any
-- $6 day date                      the current viewing day
-- $7 day_begins timestamptz        when it began
-- $8 now timestamptz
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: grant_id uuid               null (like the rest): the profile has no such grant, or the
--                                  caller may not undo it
-- row: reset_date date             the viewing day; null: an earlier version made the grant
-- row: granted_at timestamptz
-- row: granted_by_user_id uuid
-- row: is_remote bool
-- row: granted_minutes int         null: unlimited for the day
-- row: mode text                   credit, extend or unlimited
-- row: effect_seconds int          null: unlimited, or not known
-- row: undone_at timestamptz       null: nothing was done, because the viewing day is over
-- row: undone_by_user_id uuid
-- row: request_id uuid             the request that the grant approves; null: none
-- row: is_confirmed bool           the PIN is the one in $5, and a strict account has a proof
--
-- No row: the account is unknown.
-- Runs after `grant_lock` in one transaction. A grant that is undone already stays as it is.
-- The override stays until the last unlimited grant of the day is undone. Grants of an earlier version
-- have no viewing day; those made since the day began count as of the day.
-- Writes grant.undone if it undoes the grant.
-- Locks the grant after the balance. Uses primary keys, uq_vtb_profile_date and ix_tg_profile.
with owner as (
    select
        u.is_active,
        p.id as profile_id,
        (
            $4::bool
            or not exists (select from viewing_strict_accounts as t where t.account_id = u.id)
        )
        and (
            $5::text is null
            or $5::text = left(encode(sha256(convert_to(u.pin_hash, 'UTF8')), 'hex'), 32)
        ) as is_confirmed
    from users as u
    left join profiles as p on p.id = $2::uuid and p.user_id = u.id
    where u.id = $1::uuid
),
undone as (
    update time_grants as g
    set undone_at = $8::timestamptz, undone_by_user_id = $1::uuid
    from owner as o
    where o.is_active
        and o.is_confirmed
        and g.id = $3::uuid
        and g.profile_id = o.profile_id
        and g.reset_date >= $6::date
        and g.undone_at is null
    returning
        g.id, g.profile_id, g.reset_date, g.mode, g.granted_minutes, g.effect_seconds, g.undone_at,
        g.undone_by_user_id
),
balance as (
    update viewing_time_balances as b
    set
        used_seconds = b.used_seconds + case when g.mode = 'credit' then g.effect_seconds else 0 end,
        extended_minutes = case
            when g.mode = 'extend' then greatest(0, b.extended_minutes - g.granted_minutes)
            else b.extended_minutes
        end,
        is_unlimited_override = case
            when g.mode = 'unlimited'
            then exists (
                select
                from time_grants as t
                where t.profile_id = g.profile_id
                    and t.id <> g.id
                    and t.granted_minutes is null
                    and t.undone_at is null
                    and (
                        t.reset_date = g.reset_date
                        or t.reset_date is null and t.granted_at >= $7::timestamptz
                    )
            )
            else b.is_unlimited_override
        end,
        updated_at = $8::timestamptz
    from undone as g
    where b.profile_id = g.profile_id and b.reset_date = g.reset_date
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select
        $1::uuid,
        g.profile_id,
        'grant.undone',
        g.undone_at,
        jsonb_build_object('grant_id', g.id)
    from undone as g
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    g.id as grant_id,
    g.reset_date,
    g.granted_at,
    g.granted_by_user_id,
    g.is_remote,
    g.granted_minutes,
    g.mode,
    g.effect_seconds,
    coalesce(d.undone_at, g.undone_at) as undone_at,
    coalesce(d.undone_by_user_id, g.undone_by_user_id) as undone_by_user_id,
    g.request_id,
    coalesce(o.is_confirmed, false) as is_confirmed
from owner as o
left join time_grants as g
    on g.id = $3::uuid and g.profile_id = o.profile_id and o.is_active and o.is_confirmed
left join undone as d on true
