-- depends: 0021_strict_accounts
--
-- The effect of a grant, so that a parent can see it and undo exactly that. Rows of earlier grants
-- have nulls: their effect is not known, and they cannot be undone.
--
-- Without a default the rows stay as they are. The lock excludes every other transaction while the
-- catalogue is written; later transactions wait as long as this one waits for the lock.
set local lock_timeout = '2s';

alter table time_grants
    add column if not exists reset_date date, -- the viewing day of the grant
    add column if not exists mode varchar(10), -- credit, extend or unlimited
    add column if not exists effect_seconds int, -- seconds gained; null: unlimited for the day
    add column if not exists undone_at timestamptz, -- null: the grant stands
    add column if not exists undone_by_user_id uuid; -- the account that undid it
