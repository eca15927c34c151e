-- depends: 0020_locks
--
-- Accounts whose changes all need the PIN. A table of the service's own, because `users` belongs to
-- another application.
--
-- day_floor: in a strict account, a change of zone or reset hour does not move the viewing day back.
-- The viewing day is this one until the calendar has caught up. Null: no such change.
--
-- The foreign key deletes the row with its account; it locks `users` against writes while the
-- catalogue is written. Later transactions wait as long as this one waits for a lock.
set local lock_timeout = '2s';

create table if not exists viewing_strict_accounts (
    account_id uuid not null,
    since timestamptz not null,          -- when the parent made the account strict
    constraint viewing_strict_accounts_pkey primary key (account_id),
    constraint viewing_strict_accounts_account_id_fkey foreign key (account_id)
        references users (id) on delete cascade
);

alter table viewing_time_configs add column if not exists day_floor date;
