-- depends: 0026_ix_vs_earlier_days
--
-- Links to the weekly report that work once, for five minutes, without an access token: a parent's
-- app opens one in a browser. The URL contains a random token; the table has only a hash of it, so a
-- copy of the table opens no report. Opening a link deletes its row.
--
-- Rows are few and short-lived. One index finds those of an account, also for the foreign key, the
-- other the expired ones; each new row deletes some of them. The foreign key locks `users` against
-- writes while the catalogue is written (see 0012).
set local lock_timeout = '2s';

create table if not exists viewing_report_links (
    id bytea not null,                   -- SHA-256 of the secret in the URL
    account_id uuid not null,            -- whose children the report shows
    expires_at timestamptz not null,     -- the link does not work from this time on
    constraint viewing_report_links_pkey primary key (id),
    constraint viewing_report_links_account_id_fkey foreign key (account_id)
        references users (id) on delete cascade
);

create index if not exists ix_vrl_account on viewing_report_links (account_id, expires_at);

create index if not exists ix_vrl_expires on viewing_report_links (expires_at);
