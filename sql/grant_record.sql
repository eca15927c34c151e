-- Grants a child more time today and records the grant.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 pin_mark text                fingerprint of the PIN in the PIN token; null: any
-- $4 day date                      the viewing day
-- $5 minutes int                   null: unlimited for the day
-- $6 is_remote bool                granted away from the device
-- $7 now timestamptz
-- $8 id_prefix text                24 hexadecimal digits, new for each statement, that sort by time
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: is_confirmed bool           the PIN is still the one in $3 (if there is one)
-- row: used_seconds int            the day's balance after the grant; null: nothing was done
-- row: is_unlimited_override bool  null: nothing was done
--
-- No row: the account is unknown.
-- The upsert on `uq_vtb_profile_date` lowers the used seconds, so concurrent heartbeats are kept.
-- Both rows are written or neither is.
with owner as (
    select
        u.is_active,
        p.id as profile_id,
        $3::text is null or $3::text = left(encode(sha256(convert_to(u.pin_hash, 'UTF8')), 'hex'), 32)
            as is_confirmed
    from users as u
    left join profiles as p on p.id = $2::uuid and p.user_id = u.id
    where u.id = $1::uuid
),
balance as (
    insert into viewing_time_balances as b (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        updated_at
    )
    select
        ($8::text || '00000000')::uuid,
        o.profile_id,
        $4::date,
        0,
        0,
        $5::int is null,
        $7::timestamptz
    from owner as o
    where o.is_active and o.profile_id is not null and o.is_confirmed
    on conflict (profile_id, reset_date) do update
    set
        used_seconds = greatest(0, b.used_seconds - 60 * coalesce($5::int, 0)),
        is_unlimited_override = coalesce(b.is_unlimited_override, false) or $5::int is null,
        updated_at = excluded.updated_at
    returning b.profile_id, b.used_seconds, b.is_unlimited_override
),
granted as (
    insert into time_grants (
        id, profile_id, granted_by_user_id, granted_minutes, is_remote, granted_at
    )
    select
        ($8::text || '00000001')::uuid,
        b.profile_id,
        $1::uuid,
        $5::int,
        $6::bool,
        $7::timestamptz
    from balance as b
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    coalesce(o.is_confirmed, false) as is_confirmed,
    b.used_seconds,
    b.is_unlimited_override
from owner as o
left join balance as b on true
