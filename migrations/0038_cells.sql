-- depends: 0037_heartbeat_events
--
-- A cell is one schema with all tables of the service. These tables say which cell this is, and which
-- accounts are in which cell. They are empty where there is one cell, which then pays nothing.
--
-- An account belongs to one of 1,024 slots by a hash of its id, and each slot to a cell. Every cell has
-- the whole map, so that it is known while one of them is down; of two rows of a slot, the one with the
-- higher epoch counts. Only the cell that has a slot, or an account, gives it away: its own row changes
-- in the transaction that deletes the account there. So at most one cell acts for an account, also
-- when the map of another cell, or of an instance, is old.
set local lock_timeout = '2s';

create table if not exists viewing_cell (
    is_only bool not null default true,
    name varchar(40) not null,
    constraint viewing_cell_pkey primary key (is_only),
    constraint ck_vc_is_only check (is_only)
);

create table if not exists viewing_cell_slots (
    slot int not null,                   -- 0 to 1023
    cell varchar(40) not null,
    epoch bigint not null,
    constraint viewing_cell_slots_pkey primary key (slot)
);

-- Accounts that were moved, in the cell that they left and in the one that they went to, and
-- administrators of another cell. The rows outlive their accounts, so that one with the same id is
-- made in the same place.
create table if not exists viewing_cell_accounts (
    id uuid not null,                    -- of the account
    cell varchar(40) not null,           -- where the account is
    epoch bigint not null,               -- rises with each move of the account
    state varchar(7) not null,           -- lives, arrives (not yet there) or mirror (an administrator)
    constraint viewing_cell_accounts_pkey primary key (id)
);

create or replace function viewing_cell_slot(account uuid) returns int
language sql
immutable
strict
parallel safe
as $$
    select get_byte(sha256(uuid_send(account)), 0) * 4 + get_byte(sha256(uuid_send(account)), 1) / 64
$$;

-- Refuses an account that belongs to another cell, so that an old map makes no account twice. It waits
-- for a move of the account, and for a slot that is being given away.
create or replace function viewing_cell_guard() returns trigger
language plpgsql
set search_path from current
as $$
declare
    here text;
    its_cell text;
    its_state text;
begin
    select c.name into here from viewing_cell as c;
    -- The cells of one database share its advisory locks.
    perform pg_advisory_xact_lock_shared(
        hashtextextended(concat_ws(' ', 'viewing-time account', here, new.id), 0)
    );
    select a.cell, a.state into its_cell, its_state
    from viewing_cell_accounts as a
    where a.id = new.id;
    if not found then
        select s.cell, 'lives' into its_cell, its_state
        from viewing_cell_slots as s
        where s.slot = viewing_cell_slot(new.id)
        for share;
    end if;
    if its_state = 'lives' and its_cell <> here then
        raise exception 'the account belongs to cell %', its_cell using errcode = 'VC001';
    end if;
    return new;
end;
$$;

-- Makes this schema the cell of this name, unless it is one already; returns the name that it has. The
-- trigger exists in cells only.
create or replace function viewing_cell_join(cell_name text) returns text
language plpgsql
set search_path from current
as $$
declare
    here text;
begin
    insert into viewing_cell (name) values (cell_name) on conflict (is_only) do nothing;
    if not exists (
        select
        from pg_trigger as t
        where t.tgrelid = 'users'::regclass and t.tgname = 'viewing_cell_guard'
    ) then
        create trigger viewing_cell_guard before insert on users
        for each row execute function viewing_cell_guard();
    end if;
    select c.name into here from viewing_cell as c;
    return here;
end;
$$;

revoke execute on function viewing_cell_join(text) from public;
