-- Finds the node that has the cell.
--
-- row: host text
-- row: port int4
-- row: is_here bool                it is the node of this connection
--
-- No row: the schema is not distributed yet.
-- Every node has the catalogue. All tables of a cell are on one node, so one of them tells.
select
    n.nodename as host,
    n.nodeport as port,
    n.groupid = g.groupid as is_here
from pg_dist_shard as s
join pg_dist_placement as p on p.shardid = s.shardid
join pg_dist_node as n on n.groupid = p.groupid and n.noderole = 'primary'
cross join pg_dist_local_group as g
where s.logicalrelid = to_regclass('users')::oid
