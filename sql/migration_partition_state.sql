-- Checks whether the table of balances can be partitioned.
--
-- row: is_partitioned bool         it is already
-- row: obstacle text               why it cannot be; null: it can
-- row: bytes int8                  of the table and its indexes
select
    c.relkind = 'p' as is_partitioned,
    viewing_balances_obstacle() as obstacle,
    pg_total_relation_size(c.oid) as bytes
from pg_class as c
where c.oid = 'viewing_time_balances'::regclass
