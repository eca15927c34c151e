-- Makes an account strict, or not.
--
-- $1 account_id uuid               the caller
-- $2 has_proof bool                the request came with a valid PIN token
-- $3 pin_mark text                 fingerprint of the PIN in the PIN token; null: any
-- $4 is_strict bool
-- $5 now timestamptz
--
-- row: is_active bool              the account is active
-- row: is_confirmed bool           the proof is given, and the PIN is still the one in $3
-- row: since timestamptz           when the account became strict; null: it is not
--
-- No row: the account is unknown.
-- Both directions need the PIN, so an account without one cannot become strict. An account that is
-- strict already stays so since the first time; the upsert on the primary key returns that time.
-- A change without a PIN whose statement began before this one committed still takes effect.
with owner as (
    select
        u.id as account_id,
        u.is_active,
        $2::bool
            and u.pin_hash is not null
            and (
                $3::text is null
                or $3::text = left(encode(sha256(convert_to(u.pin_hash, 'UTF8')), 'hex'), 32)
            ) as is_confirmed
    from users as u
    where u.id = $1::uuid
),
made as (
    insert into viewing_strict_accounts as s (account_id, since)
    select o.account_id, $5::timestamptz
    from owner as o
    where o.is_active and o.is_confirmed and $4::bool
    on conflict (account_id) do update set since = s.since
    returning s.since
),
ended as (
    delete from viewing_strict_accounts as s
    using owner as o
    where s.account_id = o.account_id and o.is_active and o.is_confirmed and not $4::bool
)
select
    o.is_active,
    o.is_confirmed,
    m.since
from owner as o
left join made as m on true
