-- Makes a title, or changes the one that has its id.
--
-- $1 caller_id uuid                who asks
-- $2 title_id uuid
-- $3 title text                    the name that history and reports show
-- $4 title_type text               null: stays; new: movie
-- $5 is_educational bool           viewing may be exempt from the limit
-- $6 now timestamptz
--
-- row: is_active bool              the caller may ask
-- row: is_admin bool               the caller is an administrator
-- row: is_pending bool             its deletion is pending, so nothing was done
-- row: title text                  the title as it is now; null where nothing was done
-- row: title_type text
-- row: is_educational bool
--
-- No row: the caller is unknown.
-- No key changes: heartbeats, which ask only that their title stay, do not wait. The catalogue's
-- other columns stay as they are.
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
