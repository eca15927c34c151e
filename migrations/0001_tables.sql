-- The tables of the contract, for an empty database.
--
-- A live database has them already, with rows. `if not exists` leaves those as they are, so the
-- service may rely on nothing below beyond the contract. Therefore:
--   * ids have no default: the writer of a row makes its id, and code that forgets it fails on a
--     new database as it would on an adopted one;
--   * primary keys, foreign keys and the unique e-mail have the names that PostgreSQL gives them:
--     an adopted database has those names, and the service tells errors apart by them;
--   * times of viewing have no default: they come from the service's clock, not the database's.
--
-- A table that is missing beside adopted ones is made with its foreign keys, which briefly lock the
-- tables that they refer to against writes. A heartbeat waits for that at most two seconds.
set local lock_timeout = '2s';

-- The account of a parent. Another service registers accounts: this one reads them and writes the
-- last three columns.
create table if not exists users (
    id uuid not null,                    -- `sub` of a token
    email varchar(255) not null,         -- for signing in, which is not done here
    password_hash varchar(255) not null, -- bcrypt; proves the parent who resets a forgotten PIN
    subscription_tier varchar(20) not null default 'basic', -- not read here
    is_admin bool not null default false, -- may read the metrics; a claim in a token is not enough
    is_active bool not null default true, -- false: every token of the account is refused
    created_at timestamptz not null default now(),
    pin_hash varchar(255),               -- bcrypt of four digits; null: no PIN set
    pin_failed_attempts int not null default 0, -- in a row, up to now; a right PIN clears it
    pin_lockout_until timestamptz,       -- no guess is looked at before; null: never locked
    constraint users_pkey primary key (id),
    constraint users_email_key unique (email)
);

-- One viewer of an account.
create table if not exists profiles (
    id uuid not null,
    user_id uuid not null,               -- the account; every request is checked against it
    name varchar(100) not null,          -- as the weekly report calls the child
    avatar_url varchar(500),             -- not read here
    parental_rating varchar(10) not null default 'TV-MA', -- not read here
    is_kids bool not null default false, -- true: a child, so viewing is counted and limited
    created_at timestamptz not null default now(),
    constraint profiles_pkey primary key (id),
    constraint profiles_user_id_fkey foreign key (user_id)
        references users (id) on delete cascade
);

-- The titles that can be watched. Another service owns the catalogue: an adopted table is much
-- wider, and the service reads `id`, `title` and `is_educational` only.
create table if not exists titles (
    id uuid not null,
    title varchar(500) not null,         -- the name that history and reports show
    title_type varchar(20) not null,     -- movie, series, ...; not read here
    is_featured bool not null default false, -- not read here
    is_educational bool not null default false, -- viewing may be exempt from the limit
    created_at timestamptz not null default now(),
    constraint titles_pkey primary key (id)
);

-- The limits of one child; stored with the defaults when they are first needed.
create table if not exists viewing_time_configs (
    id uuid not null,
    profile_id uuid not null,            -- the child; one row each
    weekday_limit_minutes int,           -- a day, Monday to Friday; null: unlimited
    weekend_limit_minutes int,           -- a day, Saturday and Sunday; null: unlimited
    reset_hour int not null default 6,   -- the viewing day begins at this hour, local time
    educational_exempt bool not null default true, -- educational titles do not use up the limit
    timezone varchar(50) not null default 'UTC', -- IANA name: where "local time" is
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(), -- of the last change by a parent
    constraint viewing_time_configs_pkey primary key (id),
    constraint viewing_time_configs_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade,
    constraint uq_vtc_profile unique (profile_id),
    constraint ck_vtc_weekday_range check (
        weekday_limit_minutes is null
        or (
            weekday_limit_minutes >= 15
            and weekday_limit_minutes <= 480
            and weekday_limit_minutes % 15 = 0
        )
    ),
    constraint ck_vtc_weekend_range check (
        weekend_limit_minutes is null
        or (
            weekend_limit_minutes >= 15
            and weekend_limit_minutes <= 480
            and weekend_limit_minutes % 15 = 0
        )
    ),
    constraint ck_vtc_reset_hour check (reset_hour between 0 and 23)
);

-- The time that one child has used on one viewing day. Every heartbeat of the child writes it.
create table if not exists viewing_time_balances (
    id uuid not null,
    profile_id uuid not null,            -- the child
    reset_date date not null,            -- the viewing day, named by the local date it began on
    used_seconds int not null default 0, -- against the limit; a grant lowers it, not below 0
    educational_seconds int not null default 0, -- watched beside the limit
    is_unlimited_override bool not null default false, -- a parent lifted the limit for this day
    updated_at timestamptz not null default now(), -- of the last beat or grant
    constraint viewing_time_balances_pkey primary key (id),
    constraint viewing_time_balances_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade,
    constraint uq_vtb_profile_date unique (profile_id, reset_date) -- the upsert's arbiter
);

-- One period of watching one title. Every heartbeat writes it, also those of adults.
--
-- `title_id` has no index. It would serve only the deletion of a title, which is rare and can be
-- done at night by one scan. Every new session would pay for it with a write to a random page of an
-- index as long as the history. (0013 adds it after all.)
create table if not exists viewing_sessions (
    id uuid not null,
    profile_id uuid not null,            -- who watches
    title_id uuid not null,              -- what is watched
    device_id varchar(100) not null,     -- as the player calls itself
    device_type varchar(20),             -- tv, mobile, tablet or web; null in old rows
    is_educational bool not null default false, -- the title's, at the time of the first beat
    started_at timestamptz not null,     -- of the first beat
    last_heartbeat_at timestamptz not null, -- of the latest beat, counted or not
    ended_at timestamptz,                -- null: open; at most one a profile
    total_seconds int not null default 0, -- 30 for every beat that counts
    paused_at timestamptz,               -- first beat of a pause; null: playing
    constraint viewing_sessions_pkey primary key (id),
    constraint viewing_sessions_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade,
    constraint viewing_sessions_title_id_fkey foreign key (title_id)
        references titles (id) on delete cascade
);

-- Every grant that a parent has made; rows are only added.
create table if not exists time_grants (
    id uuid not null,
    profile_id uuid not null,            -- to which child
    granted_by_user_id uuid not null,    -- by which account
    granted_minutes int,                 -- null: unlimited for the day
    is_remote bool not null,             -- false: confirmed with the PIN on the child's device
    granted_at timestamptz not null default now(),
    constraint time_grants_pkey primary key (id),
    constraint time_grants_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade,
    constraint time_grants_granted_by_user_id_fkey foreign key (granted_by_user_id)
        references users (id) on delete cascade
);
