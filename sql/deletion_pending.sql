-- Lists the pending deletions, the oldest first.
--
-- row: kind text                   account, profile or title
-- row: id uuid
--
-- Without a limit: a deletion that cannot be done yet must not delay the others.
select
    d.kind,
    d.id
from pending_deletions as d
order by d.requested_at, d.kind, d.id
