-- Makes viewing_time_balances one table again if that is a matter of seconds: the former table is still
-- a partition, and the others have at most 100,000 rows, which are moved to it. Otherwise the table
-- keeps its partitions, and an older version of the service works with them; ops/database.md has the
-- statements for later.
set local lock_timeout = '2s';

do $$
declare
    kept regclass := to_regclass('viewing_time_balances_before');
    names record;
    more bigint;
begin
    if kept is null
        or not exists (select from viewing_balance_partitions() as p where p.partition_id = kept)
    then
        return;
    end if;

    lock table profiles in access exclusive mode;
    lock table viewing_time_balances in access exclusive mode;

    select count(*) into more
    from (select from viewing_time_balances as b where b.tableoid <> kept limit 100001) as m;
    if more > 100000 then
        return;
    end if;

    create temporary table index_names on commit drop as
    select x.relname as name, h.inhrelid as index_id
    from pg_index as i
    join pg_class as x on x.oid = i.indexrelid
    join pg_inherits as h on h.inhparent = x.oid
    join pg_index as o on o.indexrelid = h.inhrelid and o.indrelid = kept
    where i.indrelid = 'viewing_time_balances'::regclass;

    alter table viewing_time_balances detach partition viewing_time_balances_before;
    insert into viewing_time_balances_before select * from viewing_time_balances;
    perform viewing_copy_rights('viewing_time_balances', kept);
    execute format('drop table %I', 'viewing_time_balances');  -- it has no row any more: no harm
    alter table viewing_time_balances_before rename to viewing_time_balances;

    for names in select n.name, n.index_id::regclass as index_name from index_names as n loop
        execute format('alter index %s rename to %I', names.index_name, names.name);
    end loop;

    select k.conname into names
    from pg_constraint as k
    where k.conrelid = kept and k.contype = 'p';
    execute format(
        'alter table viewing_time_balances drop constraint %I, add constraint %I primary key (id)',
        names.conname, names.conname
    );
end;
$$;
