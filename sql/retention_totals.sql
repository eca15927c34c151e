-- Returns the approximate number of sessions and balances.
--
-- row: sessions int8
-- row: balances int8
--
-- Tables below 64 MB are counted, which takes milliseconds. Larger ones use the estimate of the last
-- vacuum or analyze; migration 0011 keeps it close. A table without an estimate is counted: its
-- reltuples is -1, or 0 before PostgreSQL 14. Of a partitioned table, the sums of the partitions
-- count, and one without an estimate adds nothing if the others are large.
with sizes as (
    select
        t.name,
        sum(pg_relation_size(c.oid))::int8 as bytes,
        sum(greatest(c.reltuples, 0))::int8 as estimate
    from (values ('viewing_sessions'::regclass), ('viewing_time_balances'::regclass)) as t (name)
    join pg_class as c
        on c.relkind <> 'p'
        and (c.oid = t.name or c.oid in (select p.relid from pg_partition_tree(t.name) as p))
    group by t.name
)
select
    case
        when s.bytes >= 67108864 and s.estimate > 0 then s.estimate
        else (select count(*) from viewing_sessions)
    end as sessions,
    case
        when b.bytes >= 67108864 and b.estimate > 0 then b.estimate
        else (select count(*) from viewing_time_balances)
    end as balances
from sizes as s
cross join sizes as b
where s.name = 'viewing_sessions'::regclass and b.name = 'viewing_time_balances'::regclass
