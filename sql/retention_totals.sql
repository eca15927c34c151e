-- Returns the approximate number of sessions and balances.
--
-- row: sessions int8
-- row: balances int8
--
-- Tables below 64 MB are counted, which takes milliseconds. Larger ones use the estimate of the last
-- vacuum or analyze; migration 0011 keeps it close. A table without an estimate is counted: its
-- reltuples is -1, or 0 before PostgreSQL 14.
select
    case
        when pg_relation_size(s.oid) >= 67108864 and s.reltuples > 0 then s.reltuples::int8
        else (select count(*) from viewing_sessions)
    end as sessions,
    case
        when pg_relation_size(b.oid) >= 67108864 and b.reltuples > 0 then b.reltuples::int8
        else (select count(*) from viewing_time_balances)
    end as balances
from pg_class as s
cross join pg_class as b
where s.oid = 'viewing_sessions'::regclass and b.oid = 'viewing_time_balances'::regclass
