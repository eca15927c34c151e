-- Deletes balances of expired viewing days, for one range of profiles.
--
-- $1 from_profile uuid             first profile of the range
-- $2 profiles int                  number of profiles in the range, in the order of their ids
-- $3 before date                   viewing days before this one are expired
-- $4 max_rows int                  maximum number of balances to delete
--
-- row: deleted int
-- row: next_id uuid                start of the next range; null after the last profile
--
-- Uses uq_vtb_profile_date. retention_sessions explains why it works in ranges of profiles. In a
-- partitioned table, balance_month_drop has dropped whole months before; naming the day again limits
-- this statement to the partitions that can have expired rows.
with profiles_in_range as materialized (
    select p.id
    from profiles as p
    where p.id >= $1::uuid
    order by p.id
    limit $2::int
),
expired as materialized (
    select d.id, d.reset_date, r.id as profile_id
    from profiles_in_range as r
    cross join lateral (
        select b.id, b.reset_date
        from viewing_time_balances as b
        where b.profile_id = r.id and b.reset_date < $3::date
        for update skip locked
    ) as d
    limit $4::int
),
deleted as (
    delete from viewing_time_balances as b
    using expired as d
    where b.id = d.id and b.reset_date = d.reset_date and b.reset_date < $3::date
    returning b.id
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
