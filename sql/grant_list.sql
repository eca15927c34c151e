-- Lists the grants to a profile of a range of viewing days, newest first.
--
-- $1 account_id uuid               the caller
-- $2 profile_id uuid
-- $3 first_day date                inclusive
-- $4 last_day date                 inclusive
-- $5 max_grants int
--
-- row: is_active bool              the account is active
-- row: is_owner bool               the profile is the account's
-- row: grant_id uuid               null (like the rest) in the one row of an empty range
-- row: reset_date date             the viewing day; null: an earlier version made the grant
-- row: granted_at timestamptz
-- row: granted_by_user_id uuid
-- row: is_remote bool
-- row: granted_minutes int         null: unlimited for the day
-- row: mode text                   credit, extend or unlimited
-- row: effect_seconds int          null: unlimited, or not known
-- row: undone_at timestamptz       null: the grant stands
-- row: undone_by_user_id uuid
-- row: request_id uuid             the request that the grant approves; null: none
--
-- No row: the account is unknown.
-- Earlier versions recorded neither the viewing day nor the mode. Their grants are listed on the UTC
-- day on which they were made; those of minutes were all credits.
-- Uses ix_tg_profile; a profile has few grants, so they are sorted in memory.
select
    u.is_active,
    p.id is not null as is_owner,
    g.id as grant_id,
    g.reset_date,
    g.granted_at,
    g.granted_by_user_id,
    g.is_remote,
    g.granted_minutes,
    g.mode,
    g.effect_seconds,
    g.undone_at,
    g.undone_by_user_id,
    g.request_id
from users as u
left join profiles as p on p.id = $2::uuid and p.user_id = u.id
left join lateral (
    select
        t.id, t.reset_date, t.granted_at, t.granted_by_user_id, t.is_remote, t.granted_minutes,
        coalesce(t.mode, case when t.granted_minutes is null then 'unlimited' else 'credit' end)
            as mode,
        t.effect_seconds, t.undone_at, t.undone_by_user_id, t.request_id
    from time_grants as t
    where t.profile_id = p.id
        and u.is_active
        and (
            t.reset_date between $3::date and $4::date
            or t.reset_date is null
            and t.granted_at >= $3::date::timestamp at time zone 'UTC'
            and t.granted_at < ($4::date + 1)::timestamp at time zone 'UTC'
        )
    order by t.granted_at desc, t.id desc
    limit $5::int
) as g on true
where u.id = $1::uuid
order by g.granted_at desc, g.id desc
