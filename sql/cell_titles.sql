-- Lists titles, to copy them to a new cell.
--
-- $1 after uuid                    the last title of the page before
-- $2 max_rows int
--
-- row: id uuid
-- row: title text
-- row: title_type text
-- row: is_featured bool
-- row: is_educational bool
-- row: created_at timestamptz
--
-- An adopted table can have nulls, and the table of a new cell can not.
select
    t.id,
    t.title::text as title,
    coalesce(t.title_type, 'movie')::text as title_type,
    coalesce(t.is_featured, false) as is_featured,
    coalesce(t.is_educational, false) as is_educational,
    coalesce(t.created_at, now()) as created_at
from titles as t
where t.id > $1::uuid
order by t.id
limit $2::int
