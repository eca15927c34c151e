-- depends: 0035_events
--
-- Children's requests for more time. One of them can be pending for a profile: see uq_vr_pending. A
-- pending request is over at `expires_at`, also while its row still says `pending`.
--
-- A grant has the id of the request that it approves.
--
-- The foreign keys delete requests with their account or profile; for their lock see 0018. The new
-- column has no default, so rows of time_grants stay as they are; for the lock see 0022.
set local lock_timeout = '2s';

create table if not exists viewing_requests (
    id uuid not null,
    account_id uuid not null,
    profile_id uuid not null,
    minutes int,                         -- null: the rest of the day
    message varchar(200),                -- to the parent
    device_id varchar(100),              -- the player on which the child asked
    status varchar(8) not null,          -- pending, approved, denied or expired
    reset_date date not null,            -- the viewing day
    requested_at timestamptz not null,
    expires_at timestamptz not null,     -- the end of the viewing day
    decided_at timestamptz,              -- null: not approved or denied
    decided_by_user_id uuid,             -- the account that decided
    grant_id uuid,                       -- null: not approved
    constraint viewing_requests_pkey primary key (id),
    constraint viewing_requests_account_id_fkey foreign key (account_id)
        references users (id) on delete cascade,
    constraint viewing_requests_profile_id_fkey foreign key (profile_id)
        references profiles (id) on delete cascade
);

create unique index if not exists uq_vr_pending on viewing_requests (profile_id)
where status = 'pending';

create index if not exists ix_vr_profile_day on viewing_requests (profile_id, reset_date);

create index if not exists ix_vr_account on viewing_requests (account_id, requested_at);

create index if not exists ix_vr_expires on viewing_requests (expires_at) where status = 'pending';

alter table time_grants
    add column if not exists request_id uuid; -- the request that the grant approves
