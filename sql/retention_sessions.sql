-- Deletes expired sessions, for one range of profiles.
--
-- $1 from_profile uuid             first profile of the range
-- $2 profiles int                  number of profiles in the range, in the order of their ids
-- $3 before timestamptz            sessions older than this are expired
-- $4 max_rows int                  maximum number of sessions to delete
--
-- row: deleted int
-- row: next_id uuid                start of the next range; null after the last profile
--
-- A session is expired if its first and its last heartbeat are old: one that is being watched stays.
-- No index starts with `started_at`, because every new session would have to maintain it. The
-- statement reaches the old sessions of each profile through ix_vs_profile_started instead. A profile
-- without old sessions costs one index probe, and locks and snapshot last for one range only.
-- If $4 ends a statement early, the next one starts at the profile that is not finished; starting at
-- the beginning of the range would scan all the dead rows again.
-- A locked session is in use, so it is skipped.
with profiles_in_range as materialized (
    select p.id
    from profiles as p
    where p.id >= $1::uuid
    order by p.id
    limit $2::int
),
expired as materialized (
    select d.id, r.id as profile_id
    from profiles_in_range as r
    cross join lateral (
        select s.id
        from viewing_sessions as s
        where s.profile_id = r.id
            and s.started_at < $3::timestamptz
            and s.last_heartbeat_at < $3::timestamptz
        for update skip locked
    ) as d
    limit $4::int
),
deleted as (
    delete from viewing_sessions as s
    using expired as d
    where s.id = d.id
    returning s.id
)
select
    (select count(*)::int from deleted) as deleted,
    case
        when (select count(*) from expired) = $4::int
        then (select d.profile_id from expired as d order by d.profile_id desc limit 1)
        else (
            select p.id
            from profiles as p
            where p.id > (select r.id from profiles_in_range as r order by r.id desc limit 1)
            order by p.id
            limit 1
        )
    end as next_id
