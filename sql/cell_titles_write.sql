-- Copies titles to a new cell; one that is there already stays as it is.
--
-- $1 ids uuid[]
-- $2 titles text[]                 this and the next ones: by id
-- $3 title_types text[]
-- $4 are_featured bool[]
-- $5 are_educational bool[]
-- $6 created_at timestamptz[]
insert into titles (id, title, title_type, is_featured, is_educational, created_at)
select w.id, w.title, w.title_type, w.is_featured, w.is_educational, w.created_at
from unnest(
    $1::uuid[], $2::text[], $3::text[], $4::bool[], $5::bool[], $6::timestamptz[]
) as w (id, title, title_type, is_featured, is_educational, created_at)
on conflict (id) do nothing
