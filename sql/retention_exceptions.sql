-- Deletes exceptions of expired viewing days and locks that ended on one, for one range of profiles.
--
-- $1 from_profile uuid             first profile of the range
-- $2 profiles int                  number of profiles in the range, in the order of their ids
-- $3 before date                   viewing days before this one are expired
-- $4 max_rows int                  maximum number of exceptions to delete
--
-- row: deleted int                 exceptions
-- row: locks int                   deleted too; a profile has at most one
-- row: next_id uuid                start of the next range; null after the last profile
--
-- The day of a lock is that of its end in UTC. A viewing day is at most a day off, and a week is kept.
-- Uses the primary keys. retention_sessions explains why it works in ranges of profiles.
with profiles_in_range as materialized (
    select p.id
    from profiles as p
    where p.id >= $1::uuid
    order by p.id
    limit $2::int
),
expired as materialized (
    select d.day, r.id as profile_id
    from profiles_in_range as r
    cross join lateral (
        select e.day
        from viewing_exceptions as e
        where e.profile_id = r.id and e.day < $3::date
        for update skip locked
    ) as d
    limit $4::int
),
deleted as (
    delete from viewing_exceptions as e
    using expired as d
    where e.profile_id = d.profile_id and e.day = d.day
    returning e.day
),
ended as materialized (
    select d.profile_id
    from profiles_in_range as r
    cross join lateral (
        select l.profile_id
        from viewing_locks as l
        where l.profile_id = r.id and l.locked_until < $3::date::timestamp at time zone 'UTC'
        for update skip locked
    ) as d
),
unlocked as (
    delete from viewing_locks as l
    using ended as d
    where l.profile_id = d.profile_id
    returning l.profile_id
)
select
    (select count(*)::int from deleted) as deleted,
    (select count(*)::int from unlocked) as locks,
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
