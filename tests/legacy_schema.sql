-- The tables of the existing application as a live database has them, made by its own tool.
--
-- Ids come from the application, so they have no default. The default of
-- viewing_time_configs.timezone is quoted once too often. ix_vs_profile_started is missing, as on
-- some live databases.

create table users (
    id uuid not null,
    email varchar(255) not null,
    password_hash varchar(255) not null,
    subscription_tier varchar(20) default 'basic' not null,
    is_admin boolean default false not null,
    is_active boolean default true not null,
    created_at timestamp with time zone default now() not null,
    pin_hash varchar(255),
    pin_failed_attempts integer default '0' not null,
    pin_lockout_until timestamp with time zone,
    primary key (id),
    unique (email)
);

create table profiles (
    id uuid not null,
    user_id uuid not null,
    name varchar(100) not null,
    avatar_url varchar(500),
    parental_rating varchar(10) default 'TV-MA' not null,
    is_kids boolean default false not null,
    created_at timestamp with time zone default now() not null,
    primary key (id),
    foreign key (user_id) references users (id) on delete cascade
);

create table titles (
    id uuid not null,
    title varchar(500) not null,
    title_type varchar(20) not null,
    description text,
    release_year integer,
    duration_minutes integer,
    genre varchar(100),
    maturity_rating varchar(10),
    poster_url varchar(500),
    banner_url varchar(500),
    trailer_url varchar(500),
    is_featured boolean default false not null,
    is_educational boolean default false not null,
    created_at timestamp with time zone default now() not null,
    primary key (id)
);

create table viewing_time_configs (
    id uuid not null,
    profile_id uuid not null,
    weekday_limit_minutes integer,
    weekend_limit_minutes integer,
    reset_hour integer default '6' not null,
    educational_exempt boolean default true not null,
    timezone varchar(50) default '''UTC''' not null,
    created_at timestamp with time zone default now() not null,
    updated_at timestamp with time zone default now() not null,
    primary key (id),
    constraint uq_vtc_profile unique (profile_id),
    constraint ck_vtc_weekday_range check (
        weekday_limit_minutes is null
        or (weekday_limit_minutes >= 15 and weekday_limit_minutes <= 480
            and weekday_limit_minutes % 15 = 0)
    ),
    constraint ck_vtc_weekend_range check (
        weekend_limit_minutes is null
        or (weekend_limit_minutes >= 15 and weekend_limit_minutes <= 480
            and weekend_limit_minutes % 15 = 0)
    ),
    constraint ck_vtc_reset_hour check (reset_hour >= 0 and reset_hour <= 23),
    foreign key (profile_id) references profiles (id) on delete cascade
);

create table viewing_time_balances (
    id uuid not null,
    profile_id uuid not null,
    reset_date date not null,
    used_seconds integer default '0' not null,
    educational_seconds integer default '0' not null,
    is_unlimited_override boolean default false not null,
    updated_at timestamp with time zone default now() not null,
    primary key (id),
    constraint uq_vtb_profile_date unique (profile_id, reset_date),
    foreign key (profile_id) references profiles (id) on delete cascade
);

create table viewing_sessions (
    id uuid not null,
    profile_id uuid not null,
    title_id uuid not null,
    device_id varchar(100) not null,
    device_type varchar(20),
    is_educational boolean default false not null,
    started_at timestamp with time zone default now() not null,
    last_heartbeat_at timestamp with time zone default now() not null,
    ended_at timestamp with time zone,
    total_seconds integer default '0' not null,
    paused_at timestamp with time zone,
    primary key (id),
    foreign key (profile_id) references profiles (id) on delete cascade,
    foreign key (title_id) references titles (id) on delete cascade
);

create index ix_vs_profile_active on viewing_sessions (profile_id) where ended_at is null;

create table time_grants (
    id uuid not null,
    profile_id uuid not null,
    granted_by_user_id uuid not null,
    granted_minutes integer,
    is_remote boolean default false not null,
    granted_at timestamp with time zone default now() not null,
    primary key (id),
    foreign key (profile_id) references profiles (id) on delete cascade,
    foreign key (granted_by_user_id) references users (id) on delete cascade
);
