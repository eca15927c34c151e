-- Deletes a title with the sessions that watched it, or has that done later; counted minutes stay.
--
-- $1 caller_id uuid                who asks; null where the next is true
-- $2 is_operator bool              asked by somebody who has the database itself
-- $3 title_id uuid
-- $4 most int                      with so many sessions or more it is done later
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: is_found bool               false: there is no such title
-- row: is_deleted bool             false, where there is one: its deletion is pending
--
-- Always one row; an unknown caller is not active. All or nothing where it is done at once; where it
-- is done later (deletion_batch), the title can be watched until then.
-- The open sessions are locked before the title, as heartbeats do. A beat that starts this title in
-- the same moment waits for the deletion and is refused: the title is not there.
-- Rides ix_vs_title, as does the foreign key that deletes the sessions.
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
    from sessions as s
    cross join size as z
    join viewing_sessions as v on v.id = s.id
    where s.is_open and not z.is_large
    order by v.profile_id
    for no key update of v
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
