-- Deletes a title with its sessions, or schedules the deletion. Balances keep the minutes counted.
--
-- $1 caller_id uuid                null for an operator
-- $2 is_operator bool              true: an operator at the command line, who needs no account
-- $3 title_id uuid
-- $4 max_rows int                  with this many sessions, the deletion is scheduled
--
-- row: is_active bool              the caller's account is active
-- row: is_admin bool               the caller is an administrator
-- row: is_found bool               the title exists
-- row: is_deleted bool             false for a title that exists: its deletion is pending
--
-- Always one row; for an unknown caller `is_active` is false.
-- An immediate deletion is one transaction. Until a scheduled one (see deletion_batch) is done, the
-- title can be watched.
-- Locks open sessions before the title, in the same order as heartbeats. A heartbeat that starts a
-- session of this title meanwhile waits for the deletion, then gets 404.
-- Uses ix_vs_title, also for the foreign key that deletes the sessions.
-- Parts that lock rows take values from others by subqueries, because Citus reads a part wrongly that
-- locks rows and joins.
with caller as materialized (
    select
        $2::bool or coalesce(bool_and(u.is_active), false) as is_active,
        $2::bool or coalesce(bool_and(u.is_admin), false) as is_admin
    from users as u
    where u.id = $1::uuid
),
target as materialized (
    select t.id
    from titles as t
    cross join caller as c
    where t.id = $3::uuid and c.is_active and c.is_admin
),
sessions as materialized (
    select s.id, s.ended_at is null as is_open
    from target as t
    cross join lateral (
        select v.id, v.ended_at
        from viewing_sessions as v
        where v.title_id = t.id
        limit $4::int
    ) as s
),
size as materialized (
    select count(*) >= $4::int as is_large
    from sessions as s
),
pending as (
    insert into pending_deletions (kind, id)
    select 'title', t.id
    from target as t
    cross join size as z
    where z.is_large
    on conflict (kind, id) do nothing
),
held as materialized (
    select v.id
    from viewing_sessions as v
    where v.id = any(array(select s.id from sessions as s where s.is_open))
        and not (select z.is_large from size as z)
    order by v.profile_id
    for no key update
),
deleted as (
    delete from titles as t
    using target as g
    cross join size as z
    where t.id = g.id
        and not z.is_large
        and (select count(*) from held) >= 0
    returning t.id
),
done as (
    delete from pending_deletions as d
    using caller as c
    cross join size as z
    where d.kind = 'title'
        and d.id = $3::uuid
        and c.is_active
        and c.is_admin
        and not z.is_large
        and (select count(*) from deleted) >= 0
)
select
    c.is_active,
    c.is_admin,
    exists (select from target) as is_found,
    exists (select from deleted) as is_deleted
from caller as c
