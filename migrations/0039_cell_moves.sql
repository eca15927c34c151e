-- depends: 0038_cells
--
-- Moves accounts from one cell to another: their rows are locked and read in the one, written and read
-- back in the other, and deleted in the first. See service/database/cell_moves.py for the order of the
-- two transactions.
--
-- The functions use whole rows, as JSON, because tables of an existing application have columns that
-- this service does not know. The statements are built from one list of tables, so that no table can be
-- read and not deleted. They run with the caller's rights; the search path is that of the migration.
set local lock_timeout = '2s';

-- The tables with rows of an account, in the order in which they are written. `owner` is the column
-- that says whose a row is: it contains profiles if it is called profile_id, else accounts.
create or replace function viewing_account_tables(
    out place int, out name text, out owner text, out sort text, out seconds text
)
returns setof record
language sql
immutable
as $$
    values
        (1, 'users', 'id', 'id', '0'),
        (2, 'profiles', 'user_id', 'id', '0'),
        (3, 'viewing_sessions', 'profile_id', 'id', 'total_seconds'),
        (4, 'viewing_clocks', 'profile_id', 'profile_id', '0'),
        (5, 'viewing_schedules', 'profile_id', 'profile_id', '0'),
        (6, 'viewing_exceptions', 'profile_id', 'profile_id, day', '0'),
        (7, 'viewing_locks', 'profile_id', 'profile_id', '0'),
        (8, 'viewing_time_balances', 'profile_id', 'profile_id, reset_date', 'used_seconds'),
        (9, 'viewing_time_configs', 'profile_id', 'id', '0'),
        (10, 'viewing_requests', 'account_id', 'id', '0'),
        (11, 'time_grants', 'profile_id', 'id', '0'),
        (12, 'viewing_time_attempts', 'account_id', 'id', '0'),
        (13, 'viewing_time_password_failures', 'account_id', 'account_id', '0'),
        (14, 'viewing_time_request_keys', 'account_id', 'account_id, mark', '0'),
        (15, 'viewing_strict_accounts', 'account_id', 'account_id', '0'),
        (16, 'viewing_report_links', 'account_id', 'id', '0'),
        (17, 'viewing_events', 'account_id', 'position, seq', '0')
$$;

-- Locks every row of the accounts until the transaction ends; false: a profile was added meanwhile, so
-- the transaction must be repeated.
--
-- Locks are taken in the order of heartbeats, profile by profile: the advisory lock for starting a
-- session (see 0004), sessions, the clock; then the other tables in the order of their list, which is that
-- of viewing_data_erase; last accounts and profiles, which foreign keys of new rows lock. From then on
-- no row can be added, and a second round locks those that were added before. Requests of parents
-- lock in other orders. Where that makes a deadlock, this function ends it, because its lock time-out is
-- shorter than deadlock_timeout: nobody else fails.
create or replace function viewing_account_hold(accounts uuid[])
returns bool
language plpgsql
volatile
set search_path from current
set lock_timeout = '300ms'
as $$
declare
    here text := (select c.name from viewing_cell as c);
    account uuid;
    its_profile uuid;
    profiles uuid[];
    entry record;
begin
    for account in select a.id from unnest(accounts) as a (id) order by a.id loop
        perform pg_advisory_xact_lock(
            hashtextextended(concat_ws(' ', 'viewing-time account', here, account), 0)
        );
    end loop;
    select coalesce(array_agg(p.id order by p.id), '{}')
    into profiles
    from profiles as p
    where p.user_id = any (accounts);

    foreach its_profile in array profiles loop
        perform pg_advisory_xact_lock(uuid_hash_extended(its_profile, 0));
        perform from viewing_sessions as s where s.profile_id = its_profile order by s.id for update;
        perform from viewing_clocks as c where c.profile_id = its_profile for update;
    end loop;

    for entry in
        select t.name, t.owner, t.sort
        from generate_series(1, 2) as r (round)
        cross join viewing_account_tables() as t
        order by r.round, t.place < 3, t.place
    loop
        execute format(
            'select from %I where %I = any ($1) order by %s for update',
            entry.name, entry.owner, entry.sort
        )
        using case when entry.owner = 'profile_id' then profiles else accounts end;
    end loop;
    return not exists (
        select from profiles as p where p.user_id = any (accounts) and p.id <> all (profiles)
    );
end;
$$;

-- Reads the rows of the accounts: for each table its rows as JSON, their number, and the sum of their
-- seconds. Titles are those of the sessions. A `copy` is read as it is.
--
-- Events lose their batch of the webhook, and their number of the order in which they were written: the
-- other cell gives them one. They also get new positions there if they are still to be sent, or follow such
-- an event. Earlier ones keep their order, before all positions that the other cell has given (2^40
-- lower, each time they move), so that no stream and no webhook gets them again.
create or replace function viewing_account_rows(accounts uuid[], is_copy bool)
returns table (name text, contents text, rows int, seconds int8)
language plpgsql
stable
set search_path from current
set bytea_output = 'hex'
set extra_float_digits = 1
as $$
declare
    profiles uuid[];
    entry record;
    unsent int8;
begin
    select coalesce(array_agg(p.id order by p.id), '{}')
    into profiles
    from profiles as p
    where p.user_id = any (accounts);

    if not is_copy then
        name := 'titles';
        select coalesce(json_agg(to_jsonb(t))::text, '[]'), count(*), 0
        into contents, rows, seconds
        from titles as t
        where t.id in (select s.title_id from viewing_sessions as s where s.profile_id = any (profiles));
        return next;
    end if;

    for entry in
        select t.name, t.owner, t.sort, t.seconds
        from viewing_account_tables() as t
        where t.name <> 'viewing_events'
        order by t.place
    loop
        name := entry.name;
        execute format(
            'select coalesce(json_agg(to_jsonb(t) order by %s)::text, ''[]''), count(*), '
            'coalesce(sum(%s), 0) from %I as t where %I = any ($1)',
            entry.sort, entry.seconds, entry.name, entry.owner
        )
        into contents, rows, seconds
        using case when entry.owner = 'profile_id' then profiles else accounts end;
        return next;
    end loop;

    name := 'viewing_events';
    seconds := 0;
    if is_copy then
        select
            coalesce(json_agg(to_jsonb(e) - 'seq' order by e.seq)::text, '[]'), count(*)
        into contents, rows
        from viewing_events as e
        where e.account_id = any (accounts);
    else
        select coalesce(min(e.position), 9223372036854775807)
        into unsent
        from viewing_events as e
        left join viewing_event_feed as f on true
        where e.account_id = any (accounts)
            and e.delivered_at is null
            and (e.parked_at is not null or e.delivery_id is not null or e.position > f.webhook_from);
        select
            coalesce(
                json_agg(
                    to_jsonb(e) - 'seq' || jsonb_build_object(
                        'delivery_id', null,
                        'position', case when e.position < unsent then e.position - 1099511627776 end
                    )
                    order by e.position, e.seq
                )::text,
                '[]'
            ),
            count(*)
        into contents, rows
        from viewing_events as e
        where e.account_id = any (accounts);
    end if;
    return next;
end;
$$;

-- Writes the rows that viewing_account_rows has read in another cell, in its order, and returns their
-- number without titles. Generated columns are computed anew. Titles that this cell has stay as they are.
create or replace function viewing_account_write(names text[], contents text[])
returns int
language plpgsql
volatile
set search_path from current
as $$
declare
    entry record;
    columns text;
    written int;
    total int := 0;
begin
    for entry in
        select u.name, u.content
        from unnest(names, contents) with ordinality as u (name, content, place)
        where u.content <> '[]'
        order by u.place
    loop
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
        into columns
        from pg_attribute as a
        where a.attrelid = to_regclass(quote_ident(entry.name))
            and a.attnum > 0
            and not a.attisdropped
            and a.attgenerated = ''
            and (entry.name, a.attname) <> ('viewing_events', 'seq');
        execute format(
            'insert into %1$I (%2$s) overriding system value '
            'select %2$s from json_populate_recordset(null::%1$I, $1::json) %3$s',
            entry.name,
            columns,
            case when entry.name = 'titles' then 'order by id on conflict do nothing' end
        )
        using entry.content;
        get diagnostics written = row_count;
        if entry.name <> 'titles' then
            total := total + written;
        end if;
    end loop;
    return total;
end;
$$;

-- Deletes the rows of the accounts, table by table, so that no foreign key deletes any; returns their
-- number.
create or replace function viewing_account_remove(accounts uuid[])
returns int
language plpgsql
volatile
set search_path from current
set lock_timeout = '300ms'
as $$
declare
    profiles uuid[];
    entry record;
    removed int;
    total int := 0;
begin
    select coalesce(array_agg(p.id order by p.id), '{}')
    into profiles
    from profiles as p
    where p.user_id = any (accounts);
    for entry in select t.name, t.owner from viewing_account_tables() as t order by t.place desc loop
        execute format('delete from %I where %I = any ($1)', entry.name, entry.owner)
        using case when entry.owner = 'profile_id' then profiles else accounts end;
        get diagnostics removed = row_count;
        total := total + removed;
    end loop;
    return total;
end;
$$;
