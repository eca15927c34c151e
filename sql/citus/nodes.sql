-- Lists the nodes except that of this connection.
--
-- row: host text
-- row: port int4
select n.nodename as host, n.nodeport as port
from pg_dist_node as n
cross join pg_dist_local_group as g
where n.isactive and n.noderole = 'primary' and n.groupid <> g.groupid
