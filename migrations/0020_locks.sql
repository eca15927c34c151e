-- depends: 0019_exceptions
--
-- Locks by parents: nothing plays on the profile until the lock ends. A row whose time is over has
-- no effect; the next lock replaces it.
--
-- The foreign key deletes the rows with their profile; for its lock see 0018.
set local lock_timeout = '2s';

create table if not exists viewing_locks (
    profile_id uuid not null,
    locked_until timestamptz not null,   -- nothing plays before this time
    locked_at timestamptz not null,      -- when the parent set it
    constraint viewing_locks_pkey primary key (profile_id),
    constraint viewing_locks_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade
);
