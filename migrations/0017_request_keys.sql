-- depends: 0016_sessions_end_after_their_start
--
-- Responses to requests with an Idempotency-Key that changed something: for 24 hours, a repetition
-- of the request is answered from here. The row is written in the transaction of the change, so
-- both exist or neither.
--
-- The key itself, PINs, passwords and tokens are not stored: `mark` is a hash, `digest` needs the
-- secret of the service, and a response with a token is stored without it.
--
-- Rows are few and short-lived. The index finds the expired ones; each new row deletes some of
-- them. The foreign key deletes them with their account; it locks `users` against writes while the
-- catalogue is written (see 0012).
set local lock_timeout = '2s';

create table if not exists viewing_time_request_keys (
    account_id uuid not null,
    mark uuid not null,                  -- hash of the key
    digest bytea not null,               -- HMAC of the request
    status int not null,
    answer text not null,                -- the body, or a part of it
    created_at timestamptz not null default now(),
    constraint viewing_time_request_keys_pkey primary key (account_id, mark),
    constraint viewing_time_request_keys_account_id_fkey foreign key (account_id)
        references users (id) on delete cascade
);

create index if not exists ix_vtrk_created on viewing_time_request_keys (created_at);
