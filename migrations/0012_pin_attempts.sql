-- depends: 0011_vacuum_thresholds
--
-- Two tables of the service's own, because `users` belongs to another application.
--
-- viewing_time_attempts: attempts at an account's PIN or password that are counted and not judged
-- yet. A right PIN, or a wrong one after its answer, deletes its row. A row that stays is an
-- attempt that the service could not finish (a lost worker, a deadline, a lost database, a killed
-- process): it is given back. The rows are few, and each lasts about a second.
--
-- viewing_time_password_failures: wrong passwords in a row at resets of the PIN, and the time of
-- the next allowed attempt. It slows down guessing on all instances together and does not lock the
-- PIN.
--
-- The foreign keys delete the rows with their account. They lock `users` against writes while the
-- catalogue is written; later transactions wait as long as this one waits for the lock.
set local lock_timeout = '2s';

create table if not exists viewing_time_attempts (
    id uuid not null,
    account_id uuid not null,
    is_password bool not null,           -- false: at the PIN
    begun_at timestamptz not null,       -- when it was counted
    locked_until timestamptz,            -- the lock or delay that it set when it was counted
    is_forgiven bool not null default false, -- its count has been cleared: nothing to give back
    constraint viewing_time_attempts_pkey primary key (id),
    constraint viewing_time_attempts_account_id_fkey foreign key (account_id)
        references users (id) on delete cascade
);

create index if not exists ix_vta_account on viewing_time_attempts (account_id);

create table if not exists viewing_time_password_failures (
    account_id uuid not null,
    failures int not null,               -- in a row, up to now; a right password clears it
    next_attempt_at timestamptz not null, -- no password is looked at before
    constraint viewing_time_password_failures_pkey primary key (account_id),
    constraint viewing_time_password_failures_account_id_fkey foreign key (account_id)
        references users (id) on delete cascade
);
