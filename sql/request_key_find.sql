-- Looks for the answer to an earlier request with the same Idempotency-Key.
--
-- $1 account_id uuid               who asks
-- $2 mark uuid                     hash of the key
-- $3 profile_id uuid               that the request is about, which must be the account's; null: none
--
-- row: is_active bool              the account may ask
-- row: is_owner bool               the profile is the account's (or none was named)
-- row: digest bytea                HMAC of the earlier request; null, like the rest: there is none
-- row: status int
-- row: answer text
--
-- No row: the account is unknown. An answer older than 24 hours, by this server's clock, is none.
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
