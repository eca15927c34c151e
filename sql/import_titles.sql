-- Merges the staged titles, and returns which of them it cannot: those that are being deleted.
--
-- $1 caller_id uuid                who asks; null: the operator, at the command line
-- $2 now timestamptz
--
-- row: is_allowed bool             the caller is an active administrator
-- row: merged int8                 lines that are in the table now, changed or found so
-- row: refused int8                lines that are not
-- row: lines int8[]                the first 100 of these, in step with the next
-- row: faults text[]
--
-- A title that another transaction makes meanwhile fails at `titles_pkey`: the batch is to be
-- tried again, and finds it.
-- Only rows that differ are written, and no key of theirs: heartbeats do not wait. A member that the
-- line lacks stays as it is, also where an adopted table has a null.
with caller as (
    select $1::uuid is null or exists (
        select from users as u where u.id = $1::uuid and u.is_active and u.is_admin
    ) as is_allowed
),
asked as materialized (
    select
        l.line,
        m.id,
        m.title,
        m.title_type,
        m.is_educational,
        exists (select from titles as t where t.id = m.id) as is_known,
        case when d.id is not null then 'id: Title is being deleted' end as fault
    from import_lines as l
    cross join lateral jsonb_to_record(l.members) as m (
        id uuid, title text, title_type text, is_educational bool
    )
    left join pending_deletions as d on d.kind = 'title' and d.id = m.id
    where l.type = 'title'
),
changed as (
    update titles as t
    set
        title = a.title,
        title_type = coalesce(a.title_type, t.title_type),
        is_educational = a.is_educational
    from asked as a
    cross join caller as c
    where c.is_allowed
        and a.fault is null
        and a.is_known
        and t.id = a.id
        and (t.title, t.title_type, t.is_educational)
        is distinct from (a.title, coalesce(a.title_type, t.title_type), a.is_educational)
),
made as (
    insert into titles (id, title, title_type, is_featured, is_educational, created_at)
    select
        a.id, a.title, coalesce(a.title_type, 'movie'), false, a.is_educational, $2::timestamptz
    from asked as a
    cross join caller as c
    where c.is_allowed and a.fault is null and not a.is_known
    order by a.id
)
select
    c.is_allowed,
    count(a.line) filter (where a.fault is null) as merged,
    count(a.fault) as refused,
    coalesce((array_agg(a.line order by a.line) filter (where a.fault is not null))[1:100], '{}')
        as lines,
    coalesce((array_agg(a.fault order by a.line) filter (where a.fault is not null))[1:100], '{}')
        as faults
from caller as c
left join asked as a on true
group by c.is_allowed
