-- Deletes requests of expired viewing days that are decided or expired, for one range of profiles.
--
-- $1 from_profile uuid             first profile of the range
-- $2 profiles int                  number of profiles in the range, in the order of their ids
-- $3 before date                   viewing days before this one are expired
-- $4 max_rows int                  maximum number of requests to delete
--
-- row: deleted int
-- row: next_id uuid                start of the next range; null after the last profile
--
-- A pending request stays until its expiry is recorded with its event.
-- Uses ix_vr_profile_day. retention_sessions explains why it works in ranges of profiles.
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
        select q.id
        from viewing_requests as q
        where q.profile_id = r.id and q.reset_date < $3::date and q.status <> 'pending'
        for update skip locked
    ) as d
    limit $4::int
),
deleted as (
    delete from viewing_requests as q
    using expired as d
    where q.id = d.id
    returning q.id
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
