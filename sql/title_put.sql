-- Inserts a title, or updates the one with this id.
--
-- $1 caller_id uuid
-- $2 title_id uuid
-- $3 title text                    name, as history and reports show it
-- $4 title_type text               null: unchanged; new: movie
-- $5 is_educational bool           viewing can be exempt from the limit
-- $6 now timestamptz
--
-- row: is_active bool              the caller's account is active
-- row: is_admin bool               the caller is an administrator
-- row: is_pending bool             the title is being deleted, so nothing was written
-- row: title text                  the stored title; null if nothing was written
-- row: title_type text
-- row: is_educational bool
--
-- No row: the caller is unknown.
-- No key changes, so heartbeats (which lock the key of their title) do not wait. Other columns of
-- the catalogue are not touched.
with caller as (
    select u.is_active, u.is_admin
    from users as u
    where u.id = $1::uuid
),
pending as (
    select d.id
    from pending_deletions as d
    where d.kind = 'title' and d.id = $2::uuid
),
put as (
    insert into titles as t (id, title, title_type, is_featured, is_educational, created_at)
    select
        $2::uuid, $3::text, coalesce($4::text, 'movie'), false, $5::bool, $6::timestamptz
    from caller as c
    where c.is_active and c.is_admin and not exists (select from pending)
    on conflict (id) do update
    set
        title = excluded.title,
        title_type = coalesce($4::text, t.title_type),
        is_educational = excluded.is_educational
    returning t.title, t.title_type, t.is_educational
)
select
    c.is_active,
    c.is_admin,
    exists (select from pending) as is_pending,
    p.title,
    p.title_type,
    p.is_educational
from caller as c
left join put as p on true
