-- depends: 0029_ix_vtb_date_profile
--
-- Functions that keep viewing_time_balances in partitions by month. They change nothing yet: 0032
-- partitions an empty table, `viewing-time partition` one with rows.
--
-- Why balances only: retention drops a partition instead of deleting its rows, and new rows share the
-- pages of a small index. A heartbeat finds its balance by the viewing day, so its partition is known;
-- that costs a statement with one heartbeat 4 % of the server's CPU time, and larger ones nothing that
-- can be measured. It finds its session by the id, which need not contain a time: sessions by month
-- cost a heartbeat 23 to 44 %, and an id would no longer be unique, so two instances could start one
-- session twice.
--
-- The primary key of a partitioned table is (id, reset_date), because each unique key must contain
-- the column that decides the partition. Names, columns, the foreign key and uq_vtb_profile_date stay.
--
-- Partitions: viewing_time_balances_before (all days before the first month; the former table),
-- viewing_time_balances_2026_12 and so on (a month each), viewing_time_balances_default (a day that
-- has no other partition, so that no heartbeat fails).
--
-- Lock time-outs: a transaction that waits for an exclusive lock delays heartbeats, so it gives up
-- after 50 ms and its caller tries again. Lock order: profiles, the table, its partitions.
--
-- The two functions that the service calls run with the rights of the role that migrates: only the
-- owner of a table may add or drop partitions. Grant `execute` to the role that serves.

-- The partitions of the table; no row if it has none. Only the default one has no bound at all.
create or replace function viewing_balance_partitions(
    out partition_id oid, out first_day date, out end_day date, out is_default bool
)
returns setof record
language plpgsql
stable
set datestyle = 'ISO'
as $$
begin
    return query
    select
        c.oid,
        substring(b.bounds from 'FROM \(''([0-9-]+)''\)')::date,
        substring(b.bounds from 'TO \(''([0-9-]+)''\)')::date,
        b.bounds = 'DEFAULT'
    from pg_inherits as i
    join pg_class as c on c.oid = i.inhrelid
    cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bounds) as b
    where i.inhparent = to_regclass('viewing_time_balances')::oid and c.relispartition;
end;
$$;

-- Creates the partition of the first month that has none, from the current month to the sixth after
-- it, and returns its name; null if there is nothing to do.
--
-- The server reads the whole default partition to add another one, and writes to it wait
-- meanwhile. So nothing is done if it has more than 1,024 pages, unless the call is forced. Rows of the
-- month that are in the default partition are moved.
create or replace function viewing_balance_month_add(is_forced bool)
returns text
language plpgsql
volatile
security definer
set lock_timeout = '50ms'
as $$
declare
    parent regclass := 'viewing_time_balances'::regclass;
    other regclass;
    starts date;
    ends date;
    name text;
    settings text;
begin
    if not exists (select from viewing_balance_partitions() as p where p.is_default)
        or not pg_try_advisory_xact_lock(hashtext('viewing-time partitions'), 0)
    then
        return null;
    end if;

    select g.month::date, (g.month + interval '1 month')::date
    into starts, ends
    from generate_series(
        date_trunc('month', now() at time zone 'UTC'),
        date_trunc('month', now() at time zone 'UTC') + interval '6 months',
        interval '1 month'
    ) as g (month)
    where not exists (
        select
        from viewing_balance_partitions() as p
        where not p.is_default
            and coalesce(p.first_day, '-infinity') < g.month + interval '1 month'
            and coalesce(p.end_day, 'infinity') > g.month
    )
    order by g.month
    limit 1;

    select p.partition_id into other from viewing_balance_partitions() as p where p.is_default;

    if starts is null or not is_forced and pg_relation_size(other) > 1024 * 8192 then
        return null;
    end if;

    execute format('lock table only %s in share update exclusive mode', parent);
    execute format('lock table %s in access exclusive mode', other);

    name := format('viewing_time_balances_%s', to_char(starts, 'YYYY_MM'));
    select
        concat(
            ' with (' || array_to_string(c.reloptions, ', ') || ')',
            ' tablespace ' || quote_ident(t.spcname)
        )
    into settings
    from pg_class as c
    left join pg_tablespace as t on t.oid = c.reltablespace
    where c.oid = other;
    execute format(
        'create table %I.%I (like %s including all)%s',
        (select c.relnamespace::regnamespace::text from pg_class as c where c.oid = parent),
        name,
        parent,
        settings
    );
    execute format(
        'alter table %I owner to %s',
        name,
        (select c.relowner::regrole from pg_class as c where c.oid = parent)
    );
    execute format(
        'with moved as ('
        'delete from %s where reset_date >= %L and reset_date < %L returning *'
        ') insert into %I select * from moved',
        other, starts, ends, name
    );
    execute format(
        'alter table %s attach partition %I for values from (%L) to (%L)',
        parent, name, starts, ends
    );
    return name;
end;
$$;

-- Drops the oldest partition if all its days are before `before`. Returns its name and the number of
-- its rows, of which 1 GB and more are estimated; nulls if there is none.
--
-- Not `detach ... concurrently`: the server refuses that beside a default partition. The drop holds
-- its lock for milliseconds; the files are deleted after it.
create or replace function viewing_balance_month_drop(
    before date, out partition_name text, out deleted int8
)
language plpgsql
volatile
security definer
set lock_timeout = '50ms'
as $$
begin
    select p.partition_id::regclass::text, c.reltuples::int8
    into partition_name, deleted
    from viewing_balance_partitions() as p
    join pg_class as c on c.oid = p.partition_id
    where p.end_day <= before
    order by p.end_day
    limit 1;

    if partition_name is null then
        return;
    end if;

    if deleted <= 0 or pg_relation_size(partition_name::regclass) < 1073741824 then
        execute format('select count(*) from %s', partition_name) into deleted;
    end if;

    execute format('drop table %s', partition_name);
end;
$$;

-- Why the table cannot be partitioned, as a part of a sentence; null if it can. A trigger, a policy
-- or a view that belongs to another application would stay with the former table.
create or replace function viewing_balances_obstacle()
returns text
language plpgsql
stable
set search_path from current
as $$
begin
    return (
        with plain as (
            select c.*
            from pg_class as c
            where c.oid = 'viewing_time_balances'::regclass
        ),
        keys as (
            select
                i.indexrelid,
                i.indisunique or i.indisexclusion as is_key,
                i.indisprimary,
                i.indisvalid,
                array(
                    select a.attname::text
                    from unnest(i.indkey[0:i.indnkeyatts - 1]) as k (number)
                    join pg_attribute as a on a.attrelid = c.oid and a.attnum = k.number
                ) as names
            from plain as c
            join pg_index as i on i.indrelid = c.oid
            where i.indexrelid is distinct from to_regclass('viewing_time_balances_wide')::oid
        ),
        found as (
            select 1 as place, format('role %I is not its owner', current_user) as what
            from plain as c
            where not pg_has_role(c.relowner, 'usage')
            union all
            select 2, format('role %I may not create tables in its schema', current_user)
            from plain as c
            where not has_schema_privilege(c.relnamespace, 'create')
            union all
            select 3, format('role %I may not refer to table profiles', current_user)
            where not has_table_privilege('profiles', 'references')
            union all
            select 4, 'it is unlogged or temporary' from plain as c where c.relpersistence <> 'p'
            union all
            select 5, 'it inherits from another table, or another one from it'
            from plain as c
            join pg_inherits as i on c.oid in (i.inhrelid, i.inhparent)
            union all
            select 6, 'it has row security'
            from plain as c
            where c.relrowsecurity or c.relforcerowsecurity
            union all
            select 7, format('it has the trigger %I', t.tgname)
            from plain as c
            join pg_trigger as t on t.tgrelid = c.oid
            where not t.tgisinternal
            union all
            select 8, format('constraint %I of table %s refers to it', k.conname, k.conrelid::regclass)
            from plain as c
            join pg_constraint as k on k.confrelid = c.oid
            union all
            select
                9,
                format('%s depends on it', pg_describe_object(d.classid, d.objid, d.objsubid))
            from plain as c
            join pg_depend as d
                on d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
                or d.refclassid = 'pg_type'::regclass and d.refobjid = c.reltype
            where d.classid in (
                'pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_policy'::regclass,
                'pg_publication_rel'::regclass
            )
                or d.refclassid = 'pg_type'::regclass
                and d.classid = 'pg_class'::regclass
                and d.objid <> c.oid
            union all
            select 10, 'it belongs to a publication of all tables'
            where exists (select from pg_publication as p where p.puballtables)
            union all
            select 11, format('column %I allows nulls or is not a %s', w.name, w.type)
            from plain as c
            cross join (values ('id', 'uuid'), ('reset_date', 'date')) as w (name, type)
            where not exists (
                select
                from pg_attribute as a
                where a.attrelid = c.oid
                    and a.attname = w.name
                    and a.attnotnull
                    and a.atttypid = w.type::regtype
            )
            union all
            select 12, format('column %I is an identity', a.attname)
            from plain as c
            join pg_attribute as a on a.attrelid = c.oid
            where a.attidentity <> ''
            union all
            select 13, 'its primary key is not (id)'
            where not exists (select from keys as k where k.indisprimary and k.names = '{id}')
            union all
            select 14, format('unique index %s does not contain reset_date', k.indexrelid::regclass)
            from keys as k
            where k.is_key and not k.indisprimary and not 'reset_date' = any (k.names)
            union all
            select 15, format('index %s is invalid', k.indexrelid::regclass)
            from keys as k
            where not k.indisvalid
            union all
            select 16, format('constraint %I is not valid, or is for this table only', k.conname)
            from plain as c
            join pg_constraint as k on k.conrelid = c.oid
            where k.contype in ('c', 'f')
                and k.conname <> 'ck_vtb_before'
                and (not k.convalidated or k.connoinherit and k.contype = 'c')
        )
        select f.what from found as f order by f.place, f.what limit 1
    );
end;
$$;

-- Adds the constraint that all days are before the month after the next one, not validated yet, and
-- returns the first day of that month. Every new row must satisfy it, so it must not stay for long.
create or replace function viewing_balances_bound()
returns date
language plpgsql
volatile
set search_path from current
set datestyle = 'ISO'
set lock_timeout = '50ms'
as $$
declare
    bound date := date_trunc('month', now() at time zone 'UTC') + interval '2 months';
begin
    execute format(
        'alter table viewing_time_balances '
        'drop constraint if exists ck_vtb_before, '
        'add constraint ck_vtb_before check (reset_date < %L) not valid',
        bound
    );
    return bound;
end;
$$;

-- Drops that constraint.
create or replace function viewing_balances_unbound()
returns void
language plpgsql
volatile
set search_path from current
set lock_timeout = '50ms'
as $$
begin
    alter table viewing_time_balances drop constraint if exists ck_vtb_before;
end;
$$;

-- Turns the table into one with partitions; the former table becomes the partition of all days
-- before `bound`. If a valid constraint says that there are no later ones, and the unique index
-- viewing_time_balances_wide on (id, reset_date) exists, no row is read.
--
-- The foreign key moves to the new table, and each of them has a trigger on profiles: that table is
-- locked too, first, as in every statement that uses both.
create or replace function viewing_balances_partition(bound date)
returns void
language plpgsql
volatile
set search_path from current
set datestyle = 'ISO'
set lock_timeout = '50ms'
as $$
declare
    plain regclass;
    owner regrole;
    place text;
    settings text;
    one record;
begin
    lock table profiles in access exclusive mode;
    lock table viewing_time_balances in access exclusive mode;
    plain := 'viewing_time_balances'::regclass;
    create unique index if not exists viewing_time_balances_wide
    on viewing_time_balances (id, reset_date);

    select k.conname into one
    from pg_constraint as k
    where k.conrelid = plain and k.contype = 'p';
    execute format(
        'alter table viewing_time_balances drop constraint %I, '
        'add constraint %I primary key using index viewing_time_balances_wide',
        one.conname, one.conname
    );

    select
        c.relowner::regrole,
        c.relnamespace::regnamespace::text,
        concat(
            ' with (' || array_to_string(c.reloptions, ', ') || ')',
            ' tablespace ' || quote_ident(t.spcname)
        )
    into owner, place, settings
    from pg_class as c
    left join pg_tablespace as t on t.oid = c.reltablespace
    where c.oid = plain;

    alter table viewing_time_balances rename to viewing_time_balances_before;
    execute format(
        'create table %s.viewing_time_balances (like viewing_time_balances_before including all) '
        'partition by range (reset_date)%s',
        place,
        substring(settings from ' tablespace .*')
    );
    alter table viewing_time_balances drop constraint if exists ck_vtb_before;
    execute format('alter table viewing_time_balances owner to %s', owner);

    for one in
        select k.conname, pg_get_constraintdef(k.oid) as definition
        from pg_constraint as k
        where k.conrelid = plain and k.contype = 'f'
    loop
        execute format(
            'alter table viewing_time_balances add constraint %I %s', one.conname, one.definition
        );
    end loop;

    perform viewing_copy_rights(plain, 'viewing_time_balances'::regclass);

    execute format(
        'alter table viewing_time_balances attach partition viewing_time_balances_before '
        'for values from (minvalue) to (%L)',
        bound
    );
    alter table viewing_time_balances_before drop constraint if exists ck_vtb_before;

    -- Names belong to the new table: constraints are known by them.
    for one in
        select
            x.relname as own,
            p.oid::regclass as parent,
            left(x.relname, 48) || '_before' as name
        from pg_index as i
        join pg_class as x on x.oid = i.indexrelid
        join pg_inherits as h on h.inhrelid = x.oid
        join pg_class as p on p.oid = h.inhparent
        where i.indrelid = plain
    loop
        execute format('alter index %I rename to %I', one.own, one.name);
        execute format('alter index %s rename to %I', one.parent, one.own);
    end loop;

    execute format(
        'create table %s.viewing_time_balances_default partition of viewing_time_balances default%s',
        place,
        settings
    );
    execute format('alter table viewing_time_balances_default owner to %s', owner);
end;
$$;

-- Gives a table the rights and the comment of another one.
create or replace function viewing_copy_rights(source regclass, target regclass)
returns void
language plpgsql
volatile
set search_path from current
as $$
declare
    one record;
begin
    for one in
        select distinct r.grantee
        from pg_class as c
        cross join lateral aclexplode(c.relacl) as r
        where c.oid = target and r.grantee <> c.relowner
    loop
        execute format(
            'revoke all on %s from %s',
            target,
            case when one.grantee = 0 then 'public' else one.grantee::regrole::text end
        );
    end loop;

    for one in
        select
            g.privilege_type || g.columns as what,
            case when g.grantee = 0 then 'public' else g.grantee::regrole::text end as grantee,
            case when g.is_grantable then ' with grant option' else '' end as further
        from (
            select r.privilege_type, '' as columns, r.grantee, r.is_grantable
            from pg_class as c
            cross join lateral aclexplode(c.relacl) as r
            where c.oid = source and r.grantee <> c.relowner
            union all
            select r.privilege_type, format(' (%I)', a.attname), r.grantee, r.is_grantable
            from pg_attribute as a
            cross join lateral aclexplode(a.attacl) as r
            where a.attrelid = source and a.attnum > 0 and not a.attisdropped
        ) as g
    loop
        execute format('grant %s on %s to %s%s', one.what, target, one.grantee, one.further);
    end loop;

    execute format('comment on table %s is %L', target, obj_description(source, 'pg_class'));
end;
$$;

-- A function with the rights of its owner must not find objects of its caller: only the schema of the
-- tables is in its path, and temporary tables come last.
do $$
declare
    signature text;
begin
    foreach signature in array array[
        'viewing_balance_partitions()',
        'viewing_balance_month_add(bool)',
        'viewing_balance_month_drop(date)'
    ]
    loop
        execute format(
            'alter function %s set search_path = %I, pg_temp', signature, current_schema()
        );
    end loop;
end;
$$;

revoke execute on function viewing_balance_month_add(bool), viewing_balance_month_drop(date)
from public;
