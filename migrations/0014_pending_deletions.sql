-- depends: 0013_ix_vs_title
--
-- Accounts, profiles and titles whose deletion is asked for and not done: their viewing is deleted
-- in batches, by whichever instance gets there first, and the row is deleted with the last of it.
-- A stop or a crash in between leaves the row, so any instance goes on from there.
--
-- No foreign key: `id` is of one of three tables, and what somebody else deletes first is done.
-- A new table locks nothing that is there; the limit is for the catalogue.
set local lock_timeout = '2s';

create table if not exists pending_deletions (
    kind varchar(10) not null,           -- account, profile or title
    id uuid not null,
    requested_at timestamptz not null default now(), -- the oldest is worked on first
    constraint pending_deletions_pkey primary key (kind, id),
    constraint ck_pd_kind check (kind in ('account', 'profile', 'title'))
);
