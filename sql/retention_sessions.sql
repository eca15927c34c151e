-- Deletes some of the old sessions of a range of profiles.
--
-- $1 from_profile uuid             the first profile of the range
-- $2 profiles int                  so many profiles, in the order of their ids
-- $3 before timestamptz            older sessions are due
-- $4 most int                      at most so many of them
--
-- row: deleted int
-- row: next_profile uuid           where to go on; null: the last profile is done
--
-- A session is due when its first and its last beat are old, so one that is being watched stays.
-- No index leads with `started_at`, and every new session would pay for one. Walking the profiles
-- in the order of their ids reaches the old end of each through ix_vs_profile_started instead: a
-- range without old sessions costs an index probe for each of its profiles, and a statement
-- touches no more than its range, so its locks and its snapshot are short.
-- Where $4 ends a statement early, the next one goes on with the profile that was not finished:
-- from the start of the range it would walk over all that has just been deleted.
-- A session that somebody holds is being written to, hence not due: it is skipped, not waited for.
with profiles_in_range as materialized (
    select p.id
    from profiles as p
    where p.id >= $1::uuid
    order by p.id
    limit $2::int
),
due as materialized (
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
    using due as d
    where s.id = d.id
    returning s.id
)
select
    (select count(*)::int from deleted) as deleted,
    case
        when (select count(*) from due) = $4::int
        then (select d.profile_id from due as d order by d.profile_id desc limit 1)
        else (
            select p.id
            from profiles as p
            where p.id > (select r.id from profiles_in_range as r order by r.id desc limit 1)
            order by p.id
            limit 1
        )
    end as next_profile
