-- Reads the stored response to an earlier request with the same Idempotency-Key.
--
-- $1 account_id uuid               the caller
-- $2 mark uuid                     hash of the key
-- $3 profile_id uuid               of the request, if any; must be the account's
--
-- row: is_active bool              the account may use the service
-- row: is_owner bool               the profile is the account's, or null
-- row: digest bytea                HMAC of the earlier request; null if there is none
-- row: status int
-- row: answer text
--
-- No row: the account is unknown. Responses older than 24 hours by this server's clock are ignored.
select
    u.is_active,
    $3::uuid is null or exists (
        select from profiles as p where p.id = $3::uuid and p.user_id = u.id
    ) as is_owner,
    k.digest,
    k.status,
    k.answer
from users as u
left join viewing_time_request_keys as k
    on k.account_id = u.id
    and k.mark = $2::uuid
    and k.created_at > now() - interval '24 hours'
where u.id = $1::uuid
