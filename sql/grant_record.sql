-- Grants a child more time today, records the grant with its effect, and approves a request.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 has_proof bool                the PIN or a valid PIN token came with the request
-- $4 pin_mark text                 fingerprint of the PIN; null: any
-- $5 day date                      the viewing day
-- $6 minutes int                   null: unlimited for the day
-- $7 mode text                     credit, extend or unlimited
-- $8 is_remote bool                granted away from the device
-- $9 now timestamptz
-- $10 id_prefix text               24 hexadecimal digits, new for each statement, that sort by time
-- $11 usage_from date              first day of the balances that the policy needs; null: none needed
-- $12 exempt bool                  educational titles do not count against the limit
-- $13 request_id uuid              the child's request that the grant approves; null: none
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: is_confirmed bool           the PIN is the one in $4, and a strict account has a proof
-- row: is_child bool
-- row: used_seconds int            the day's balance after the grant, like the next two
-- row: extended_minutes int        added to the day's limit
-- row: is_unlimited_override bool
-- row: grant_id uuid               null: nothing was done
-- row: effect_seconds int          seconds gained; null: unlimited for the day
-- row: session_seconds int         counted in the open session, if it counts; 0 without $11
-- row: past_days date[]            days with a balance from $11 to the day before $5, in step with
--                                  the next four; null (like those) without $11 or a balance
-- row: past_used_seconds int4[]
-- row: past_overrides bool[]
-- row: past_extended_minutes int4[]
-- row: past_limit_minutes int4[]   null: not kept
--
-- No row: the account is unknown.
-- The upsert on `uq_vtb_profile_date` changes the balance, so concurrent heartbeats are kept. It
-- stores how far it lowers the used seconds: PostgreSQL before version 18 cannot return the value
-- from before the update, and a separate read can be older than the row that the upsert locks.
-- The rows are written together or not at all. A request that is not pending gets no grant: of two
-- approvals at once, the second one waits for its row and finds that it has been decided. Its row is
-- locked before the balance, as in viewing_data_erase.
with owner as (
    select
        u.is_active,
        p.id as profile_id,
        coalesce(p.is_kids, false) as is_child,
        (
            $3::bool
            or not exists (select from viewing_strict_accounts as t where t.account_id = u.id)
        )
        and (
            $4::text is null
            or $4::text = left(encode(sha256(convert_to(u.pin_hash, 'UTF8')), 'hex'), 32)
        ) as is_confirmed
    from users as u
    left join profiles as p on p.id = $2::uuid and p.user_id = u.id
    where u.id = $1::uuid
),
approved as (
    update viewing_requests as q
    set
        status = 'approved',
        decided_at = $9::timestamptz,
        decided_by_user_id = $1::uuid,
        grant_id = ($10::text || '00000001')::uuid
    from owner as o
    where o.is_active
        and o.is_confirmed
        and q.id = $13::uuid
        and q.profile_id = o.profile_id
        and q.status = 'pending'
        and q.expires_at > $9::timestamptz
    returning q.id
),
balance as (
    insert into viewing_time_balances as b (
        id, profile_id, reset_date, used_seconds, educational_seconds, is_unlimited_override,
        extended_minutes, latest_credit_seconds, updated_at
    )
    select
        ($10::text || '00000000')::uuid,
        o.profile_id,
        $5::date,
        0,
        0,
        $7::text = 'unlimited',
        case when $7::text = 'extend' then $6::int end,
        case when $7::text = 'credit' then 0 end,
        $9::timestamptz
    from owner as o
    where o.is_active
        and o.profile_id is not null
        and o.is_confirmed
        and ($13::uuid is null or exists (select from approved))
    on conflict (profile_id, reset_date) do update
    set
        used_seconds = greatest(
            0, b.used_seconds - case when $7::text = 'credit' then 60 * $6::int else 0 end
        ),
        is_unlimited_override = coalesce(b.is_unlimited_override, false) or $7::text = 'unlimited',
        extended_minutes = case
            when $7::text = 'extend' then coalesce(b.extended_minutes, 0) + $6::int
            else b.extended_minutes
        end,
        latest_credit_seconds = case
            when $7::text = 'credit'
            then coalesce(b.used_seconds, 0) - greatest(0, b.used_seconds - 60 * $6::int)
            else b.latest_credit_seconds
        end,
        updated_at = excluded.updated_at
    returning
        b.profile_id,
        b.used_seconds,
        b.extended_minutes,
        b.is_unlimited_override,
        case $7::text
            when 'credit' then b.latest_credit_seconds
            when 'extend' then 60 * $6::int
        end as effect_seconds
),
granted as (
    insert into time_grants (
        id, profile_id, granted_by_user_id, granted_minutes, is_remote, granted_at, reset_date, mode,
        effect_seconds, request_id
    )
    select
        ($10::text || '00000001')::uuid,
        b.profile_id,
        $1::uuid,
        $6::int,
        $8::bool,
        $9::timestamptz,
        $5::date,
        $7::text,
        b.effect_seconds,
        $13::uuid
    from balance as b
    returning id, profile_id
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select $1::uuid, g.profile_id, e.type, $9::timestamptz, e.data
    from granted as g
    cross join lateral (
        values
            (
                'grant.created',
                jsonb_build_object(
                    'grant_id', g.id,
                    'minutes', $6::int,
                    'mode', $7::text,
                    'is_remote', $8::bool,
                    'request_id', $13::uuid
                )
            ),
            (
                'request.approved',
                jsonb_build_object('request_id', $13::uuid, 'grant_id', g.id, 'minutes', $6::int)
            )
    ) as e (type, data)
    where e.type = 'grant.created' or $13::uuid is not null
)
select
    o.is_active,
    o.profile_id is not null as is_owner,
    coalesce(o.is_confirmed, false) as is_confirmed,
    o.is_child,
    coalesce(b.used_seconds, 0) as used_seconds,
    coalesce(b.extended_minutes, 0) as extended_minutes,
    coalesce(b.is_unlimited_override, false) as is_unlimited_override,
    g.id as grant_id,
    b.effect_seconds,
    case
        when $11::date is null then 0
        else coalesce((
            select s.total_seconds
            from viewing_sessions as s
            where s.profile_id = b.profile_id
                and s.ended_at is null
                and not (s.is_educational and $12::bool)
        ), 0)
    end as session_seconds,
    w.past_days,
    w.past_used_seconds,
    w.past_overrides,
    w.past_extended_minutes,
    w.past_limit_minutes
from owner as o
left join balance as b on true
left join granted as g on true
cross join lateral (
    select
        array_agg(v.reset_date) as past_days,
        array_agg(coalesce(v.used_seconds, 0)) as past_used_seconds,
        array_agg(coalesce(v.is_unlimited_override, false)) as past_overrides,
        array_agg(coalesce(v.extended_minutes, 0)) as past_extended_minutes,
        array_agg(v.limit_minutes) as past_limit_minutes
    from viewing_time_balances as v
    where v.profile_id = b.profile_id and v.reset_date >= $11::date and v.reset_date < $5::date
) as w
