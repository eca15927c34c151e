-- Merges the staged titles and returns the lines that it refuses: titles that are being deleted.
--
-- $1 caller_id uuid                the administrator; null: an operator at the command line
-- $2 now timestamptz
--
-- row: is_allowed bool             the caller is an active administrator
-- row: merged int8                 lines whose record is now stored
-- row: refused int8                lines that were not merged
-- row: lines int8[]                numbers of the first 5000 refused lines
-- row: errors text[]               why, in the order of `lines`
--
-- Writes only rows that differ, and never a key column, so heartbeats do not wait for an import.
-- An absent member keeps its stored value, also a null of an adopted table.
-- A title that another transaction inserts meanwhile violates `titles_pkey`; the caller retries the
-- batch.
with caller as (
    select $1::uuid is null or exists (
        select from users as u where u.id = $1::uuid and u.is_active and u.is_admin
    ) as is_allowed
),
staged as materialized (
    select
        l.line,
        m.id,
        m.title,
        m.title_type,
        m.is_educational,
        exists (select from titles as t where t.id = m.id) as is_stored,
        case when d.id is not null then 'id: Title is being deleted' end as error
    from import_lines as l
    cross join lateral jsonb_to_record(l.members) as m (
        id uuid, title text, title_type text, is_educational bool
    )
    left join pending_deletions as d on d.kind = 'title' and d.id = m.id
    where l.type = 'title'
),
updated as (
    update titles as t
    set
        title = a.title,
        title_type = coalesce(a.title_type, t.title_type),
        is_educational = a.is_educational
    from staged as a
    cross join caller as c
    where c.is_allowed
        and a.error is null
        and a.is_stored
        and t.id = a.id
        and (t.title, t.title_type, t.is_educational)
        is distinct from (a.title, coalesce(a.title_type, t.title_type), a.is_educational)
),
inserted as (
    insert into titles (id, title, title_type, is_featured, is_educational, created_at)
    select
        a.id, a.title, coalesce(a.title_type, 'movie'), false, a.is_educational, $2::timestamptz
    from staged as a
    cross join caller as c
    where c.is_allowed and a.error is null and not a.is_stored
    order by a.id
)
select
    c.is_allowed,
    count(a.line) filter (where a.error is null) as merged,
    count(a.error) as refused,
    coalesce((array_agg(a.line order by a.line) filter (where a.error is not null))[1:5000], '{}')
        as lines,
    coalesce((array_agg(a.error order by a.line) filter (where a.error is not null))[1:5000], '{}')
        as errors
from caller as c
left join staged as a on true
group by c.is_allowed
