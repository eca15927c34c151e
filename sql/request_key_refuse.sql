-- Replaces a stored response by a refusal, because the PIN or password is wrong by now.
--
-- $1 account_id uuid
-- $2 mark uuid                     hash of the key
-- $3 digest bytea                  stored HMAC of the request
-- $4 status int
-- $5 answer text
--
-- row: is_kept bool
--
-- No row: a copy of the request has been refused already, or the key is now another request's.
-- If two copies run at once, the second waits for the row lock until the first has ended.
update viewing_time_request_keys as k
set
    status = $4::int,
    answer = $5::text
where k.account_id = $1::uuid
    and k.mark = $2::uuid
    and k.digest = $3::bytea
    and k.status < 400
returning true as is_kept
