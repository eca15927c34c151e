-- depends: 0013_ix_vs_title
--
-- Accounts, profiles and titles whose deletion is requested and not done: any instance deletes
-- their viewing in batches, and the row with the last batch. After a stop or a crash the row is
-- still there, so any instance continues.
--
-- No foreign key: `id` belongs to one of three tables, and if another application deletes that row,
-- the deletion is done. A new table locks no existing one; the limit is for the catalogue.
set local lock_timeout = '2s';

create table if not exists pending_deletions (
    kind varchar(10) not null,           -- account, profile or title
    id uuid not null,
    requested_at timestamptz not null default now(), -- the oldest is worked on first
    constraint pending_deletions_pkey primary key (kind, id),
    constraint ck_pd_kind check (kind in ('account', 'profile', 'title'))
);
