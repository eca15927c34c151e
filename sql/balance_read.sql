-- Reads what a decision about a profile needs besides its policy.
--
-- $1 account_id uuid               of the token
-- $2 profile_id uuid
-- $3 day date                      the viewing day
-- $4 usage_from date               first day of the balances that the policy needs; null: none needed
-- $5 title_id uuid                 the title that is to play; null: the one that plays
-- $6 exempt bool                   educational titles do not count against the limit
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: is_child bool
-- row: used_seconds int
-- row: educational_seconds int
-- row: is_unlimited_override bool
-- row: extended_minutes int
-- row: is_title_found bool         the title exists, or $5 is null
-- row: is_title_educational bool   false without a title
-- row: session_seconds int         counted in the open session, if it plays the title and counts
-- row: past_days date[]            days with a balance from $4 to the day before $3, in step with the
--                                  next four; null (like those) without $4 or without a balance
-- row: past_used_seconds int4[]
-- row: past_overrides bool[]
-- row: past_extended_minutes int4[]
-- row: past_limit_minutes int4[]   null: not kept
--
-- No row: the account is unknown. Without a balance the used seconds are 0.
-- Indexes: primary keys and `uq_vtb_profile_date`, one row of each; with $4 also the week's balances
-- and the open session by `ix_vs_profile_active`. A null in $4 reads none of the last two.
select
    u.is_active,
    p.id is not null as is_owner,
    coalesce(p.is_kids, false) as is_child,
    coalesce(b.used_seconds, 0) as used_seconds,
    coalesce(b.educational_seconds, 0) as educational_seconds,
    coalesce(b.is_unlimited_override, false) as is_unlimited_override,
    coalesce(b.extended_minutes, 0) as extended_minutes,
    $5::uuid is null or t.id is not null as is_title_found,
    coalesce(t.is_educational, false) as is_title_educational,
    case
        when $4::date is null then 0
        else coalesce((
            select s.total_seconds
            from viewing_sessions as s
            where s.profile_id = p.id
                and s.ended_at is null
                and ($5::uuid is null or s.title_id = $5::uuid)
                and not (s.is_educational and $6::bool)
        ), 0)
    end as session_seconds,
    w.past_days,
    w.past_used_seconds,
    w.past_overrides,
    w.past_extended_minutes,
    w.past_limit_minutes
from users as u
left join profiles as p on p.id = $2::uuid and p.user_id = u.id
left join viewing_time_balances as b on b.profile_id = p.id and b.reset_date = $3::date
left join titles as t on t.id = $5::uuid
cross join lateral (
    select
        array_agg(v.reset_date) as past_days,
        array_agg(coalesce(v.used_seconds, 0)) as past_used_seconds,
        array_agg(coalesce(v.is_unlimited_override, false)) as past_overrides,
        array_agg(coalesce(v.extended_minutes, 0)) as past_extended_minutes,
        array_agg(v.limit_minutes) as past_limit_minutes
    from viewing_time_balances as v
    where v.profile_id = p.id and v.reset_date >= $4::date and v.reset_date < $3::date
) as w
where u.id = $1::uuid
