-- Returns the approximate number of sessions and balances.
--
-- row: sessions int8
-- row: balances int8
--
-- Tables below 64 MB are counted, which takes milliseconds. Larger ones use the estimate of the last
-- vacuum or analyze; migration 0011 keeps it close. A table without an estimate is counted: its
-- reltuples is -1, or 0 before PostgreSQL 14. Of a partitioned table, the sums of the partitions
-- count, and one without an estimate adds nothing if the others are large.
select
    case
        when s.bytes >= 67108864 and s.estimate > 0 then s.estimate
        else (select count(*) from viewing_sessions)
    end as sessions,
    case
        when b.bytes >= 67108864 and b.estimate > 0 then b.estimate
        else (select count(*) from viewing_time_balances)
    end as balances
from (
    select
        sum(pg_relation_size(c.oid))::int8 as bytes,
        sum(greatest(c.reltuples, 0))::int8 as estimate
    from pg_class as c
    where c.relkind <> 'p'
        and (
            c.oid = 'viewing_sessions'::regclass
            or c.oid in (select t.relid from pg_partition_tree('viewing_sessions') as t)
        )
) as s
cross join (
    select
        sum(pg_relation_size(c.oid))::int8 as bytes,
        sum(greatest(c.reltuples, 0))::int8 as estimate
    from pg_class as c
    where c.relkind <> 'p'
        and (
            c.oid = 'viewing_time_balances'::regclass
            or c.oid in (select t.relid from pg_partition_tree('viewing_time_balances') as t)
        )
) as b
