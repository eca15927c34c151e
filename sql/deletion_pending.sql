-- Lists the deletions that are asked for and not done, the oldest first.
--
-- row: kind text                   account, profile or title
-- row: id uuid
--
-- All of them: one that cannot be done yet must not keep the others from their turn.
select
    d.kind,
    d.id
from pending_deletions as d
order by d.requested_at, d.kind, d.id
