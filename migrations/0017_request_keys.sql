-- depends: 0016_sessions_end_after_their_start
--
-- Answers to requests that came with an Idempotency-Key and changed something: the same request
-- again is answered from here, for 24 hours. The row is written in the transaction of the change, so
-- there are both or neither.
--
-- The key itself, PINs, passwords and tokens are not kept: `mark` is a hash, `digest` needs the
-- secret of the service, and an answer that holds a token is kept without it.
--
-- Rows are few and short-lived. The index finds those that are too old; each new row takes some of
-- them away. The foreign key deletes them with their account; it locks `users` against writes for as
-- long as it takes to write the catalogue (see 0012).
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
