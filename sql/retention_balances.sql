-- Deletes some of the balances of old viewing days of a range of profiles.
--
-- $1 from_profile uuid             the first profile of the range
-- $2 profiles int                  so many profiles, in the order of their ids
-- $3 before date                   older viewing days are due
-- $4 most int                      at most so many of their balances
--
-- row: deleted int
-- row: next_profile uuid           where to go on; null: the last profile is done
--
-- Rides uq_vtb_profile_date; why in ranges of profiles: see retention_sessions.
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
        select b.id
        from viewing_time_balances as b
        where b.profile_id = r.id and b.reset_date < $3::date
        for update skip locked
    ) as d
    limit $4::int
),
deleted as (
    delete from viewing_time_balances as b
    using due as d
    where b.id = d.id
    returning b.id
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
