-- depends: 0031_balance_partitions
--
-- Partitions viewing_time_balances by month if it has no row, as in a new database. A table with rows
-- stays as it is, because the platform's own statements may rely on it: `viewing-time partition`
-- changes it when the operator decides so. So does an empty one that has, for example, a trigger of
-- the platform.
--
-- The locks exclude every other transaction for some milliseconds. Later transactions wait as long as
-- this one waits for them, hence the limit of two seconds.
set local lock_timeout = '2s';

do $$
begin
    if exists (select from viewing_time_balances)
        or exists (
            select
            from pg_class as c
            where c.oid = 'viewing_time_balances'::regclass and c.relkind <> 'r'
        )
        or viewing_balances_obstacle() is not null
    then
        return;
    end if;

    lock table profiles in access exclusive mode;
    lock table viewing_time_balances in access exclusive mode;

    if not exists (select from viewing_time_balances) then
        perform viewing_balances_partition(date_trunc('month', now() at time zone 'UTC')::date);
        while viewing_balance_month_add(false) is not null loop
        end loop;
    end if;
end;
$$;
