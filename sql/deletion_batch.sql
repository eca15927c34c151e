-- Deletes some of the viewing of an account, a profile or a title whose deletion is pending.
--
-- $1 kind text                     account, profile or title
-- $2 id uuid
-- $3 max_rows int                  of each table
--
-- row: is_claimed bool             false: another instance works on it, or nothing is pending
-- row: sessions int                deleted, like the next three
-- row: balances int
-- row: grants int
-- row: profiles int                of an account, after their viewing
--
-- Nothing deleted: the rest is small enough for account_delete, profile_delete, title_delete.
-- The pending row is locked for this statement only: instances take turns, batch by batch, and an
-- instance that dies leaves nothing to clean up.
-- Held rows are skipped, so this statement cannot deadlock with a heartbeat.
-- An account's profiles are taken a hundred at a time and deleted when they have no rows left, so
-- that no batch walks over thousands of profiles again. The rules of their parents are deleted with
-- them by foreign keys: heartbeats lock none of these rows, and the exceptions of two years of a
-- hundred profiles take about 50 ms.
-- Indexes: ix_vs_profile_started, ix_vs_title, uq_vtb_profile_date, ix_tg_profile and
-- ix_tg_granted_by.
with claimed as materialized (
    select d.kind, d.id
    from pending_deletions as d
    where d.kind = $1::text and d.id = $2::uuid
    for update skip locked
),
theirs as materialized (
    (
        select p.id
        from claimed as c
        join profiles as p on p.id = c.id
        where c.kind = 'profile'
    )
    union all
    (
        select p.id
        from claimed as c
        join profiles as p on p.user_id = c.id
        where c.kind = 'account'
        order by p.id
        limit 100
    )
),
profiles_sessions as materialized (
    select d.id
    from theirs as t
    cross join lateral (
        select s.id
        from viewing_sessions as s
        where s.profile_id = t.id
        limit $3::int
        for update skip locked
    ) as d
    limit $3::int
),
titles_sessions as materialized (
    select d.id
    from claimed as c
    cross join lateral (
        select s.id
        from viewing_sessions as s
        where s.title_id = c.id and c.kind = 'title'
        limit $3::int
        for update skip locked
    ) as d
),
due_balances as materialized (
    select d.id
    from theirs as t
    cross join lateral (
        select b.id
        from viewing_time_balances as b
        where b.profile_id = t.id
        limit $3::int
        for update skip locked
    ) as d
    limit $3::int
),
profiles_grants as materialized (
    select d.id
    from theirs as t
    cross join lateral (
        select g.id
        from time_grants as g
        where g.profile_id = t.id
        limit $3::int
        for update skip locked
    ) as d
    limit $3::int
),
accounts_grants as materialized (
    select d.id
    from claimed as c
    cross join lateral (
        select g.id
        from time_grants as g
        where g.granted_by_user_id = c.id and c.kind = 'account'
        limit $3::int
        for update skip locked
    ) as d
),
sessions as (
    delete from viewing_sessions as s
    where s.id = any (array(
        select p.id from profiles_sessions as p union all select t.id from titles_sessions as t
    ))
    returning s.id
),
balances as (
    delete from viewing_time_balances as b
    where b.id = any (array(select d.id from due_balances as d))
    returning b.id
),
grants as (
    delete from time_grants as g
    where g.id = any (array(
        select p.id from profiles_grants as p union all select a.id from accounts_grants as a
    ))
    returning g.id
),
emptied as (
    delete from profiles as p
    using claimed as c
    where c.kind = 'account'
        and p.id = any (array(select t.id from theirs as t))
        and not exists (select from profiles_sessions)
        and not exists (select from due_balances)
        and not exists (select from profiles_grants)
    returning p.id
)
select
    exists (select from claimed) as is_claimed,
    (select count(*)::int from sessions) as sessions,
    (select count(*)::int from balances) as balances,
    (select count(*)::int from grants) as grants,
    (select count(*)::int from emptied) as profiles
