-- Makes a wrong attempt count for good, before its client receives the verdict.
--
-- $1 attempt_id uuid
--
-- row: is_done bool
--
-- No row: the attempt took too long and was given back; its client must not receive the verdict.
-- Writes pin.locked if the attempt has set a lock that still stands. Until then the lock can be lifted
-- by an earlier attempt that is given back. The account is locked before the attempt, in the order of
-- `pin_settle`.
with locked as materialized (
    select
        u.id,
        u.pin_lockout_until
    from viewing_time_attempts as a
    join users as u on u.id = a.account_id
    where a.id = $1::uuid and not a.is_password and u.pin_lockout_until = a.locked_until
    for no key update of u
),
judged as (
    delete from viewing_time_attempts as a
    where a.id = $1::uuid and (select count(*) from locked) >= 0
    returning a.id
),
announced as (
    insert into viewing_events (account_id, profile_id, type, occurred_at, data)
    select
        l.id,
        null,
        'pin.locked',
        now(),
        jsonb_build_object(
            'locked_until',
            to_char(l.pin_lockout_until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        )
    from locked as l
    cross join judged as j
)
select true as is_done
from judged as j
