-- Finds the event after which a stream begins.
--
-- $1 account_id uuid               the caller
-- $2 last_event_id uuid            the latest event that the client has; null: none
--
-- row: is_active bool              the account may call
-- row: event_id uuid               the event $2, or the latest one of the account if $2 is null
-- row: position int8               its position
--
-- No row: the account is unknown. Without such an event the last two are null: it was deleted, it is
-- another account's, or it does not exist. A client cannot tell one case from another.
-- Indexes: the primary keys, or `ix_ve_account` backwards, one row.
select
    u.is_active,
    e.id as event_id,
    e.position
from users as u
left join lateral (
    (
        select
            k.id,
            k.position
        from viewing_events as k
        where k.id = $2::uuid and k.account_id = u.id and k.position is not null
    )
    union all
    (
        select
            l.id,
            l.position
        from viewing_events as l
        where $2::uuid is null and l.account_id = u.id and l.position is not null
        order by l.position desc
        limit 1
    )
) as e on true
where u.id = $1::uuid
