-- depends: 0018_schedules
--
-- Another limit, or no downtime, for one viewing day of a child: holidays and sick days. Rows of
-- days that are over stay, because reports compare a day with its own limit.
--
-- The key includes the other columns, so a heartbeat that renews a policy finds all exceptions of a
-- child on one page of the index.
--
-- The foreign key deletes the rows with their profile; for its lock see 0018.
set local lock_timeout = '2s';

create table if not exists viewing_exceptions (
    profile_id uuid not null,
    day date not null,                   -- the viewing day
    changes_limit bool not null,         -- false: the usual limit of the day applies
    limit_minutes int,                   -- null with changes_limit: unlimited
    lifts_downtime bool not null,        -- no downtime on this viewing day
    updated_at timestamptz not null,     -- of the last change by a parent
    constraint viewing_exceptions_pkey primary key (profile_id, day)
        include (changes_limit, limit_minutes, lifts_downtime),
    constraint viewing_exceptions_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade,
    constraint ck_ve_limit_range check (
        limit_minutes is null
        or (limit_minutes >= 15 and limit_minutes <= 1440 and limit_minutes % 15 = 0)
    )
);
