-- Says about how many sessions and balances there are.
--
-- row: sessions int8
-- row: balances int8
--
-- Counting is exact, and takes milliseconds, for a table below 64 MB. Of a larger one it is the
-- estimate of the last vacuum or analyze, which is kept close by migration 0011; a table that has
-- never been looked at (-1, or 0 before version 14) is counted.
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
