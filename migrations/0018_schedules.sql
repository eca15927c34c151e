-- depends: 0017_request_keys
--
-- The schedules of children: limits by day of the week, downtime, a weekly limit. A child without a
-- row has the limits of viewing_time_configs alone.
--
-- Days and windows are JSON, in the form in which parents send them: the service reads and writes
-- them whole, and no statement searches in them.
--
-- The foreign key deletes the rows with their profile. It locks `profiles` against writes while the
-- catalogue is written; later transactions wait as long as this one waits for the lock.
set local lock_timeout = '2s';

create table if not exists viewing_schedules (
    profile_id uuid not null,
    daily_limits jsonb,                  -- minutes by day, {"mon": 60, "sun": null}; null: unlimited
    downtime jsonb not null default '[]', -- windows, [{"days": ["mon"], "start": "20:00", "end": "07:00"}]
    weekly_limit_minutes int,            -- null: no weekly limit
    week_starts_on varchar(3) not null default 'mon', -- first day of the viewing week
    rollover_max_minutes int not null default 0, -- unused minutes that the next day can get
    finish_minutes int not null default 0, -- for a title that plays when the limit is reached
    updated_at timestamptz not null,     -- of the last change by a parent
    constraint viewing_schedules_pkey primary key (profile_id),
    constraint viewing_schedules_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade,
    constraint ck_vs_weekly_range check (
        weekly_limit_minutes is null
        or (
            weekly_limit_minutes >= 15
            and weekly_limit_minutes <= 10080
            and weekly_limit_minutes % 15 = 0
        )
    ),
    constraint ck_vs_week_starts_on check (
        week_starts_on in ('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')
    ),
    constraint ck_vs_rollover_max check (rollover_max_minutes between 0 and 240),
    constraint ck_vs_finish check (finish_minutes between 0 and 60)
);
