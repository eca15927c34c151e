-- Makes an administrator of another cell known in this one, so that statements here obey it.
--
-- $1 account_id uuid
-- $2 cell text                     name of the administrator's own cell, which has confirmed the right
-- $3 now timestamptz
-- $4 here text                     name of this cell
--
-- row: account_id uuid             of the administrator
--
-- No row: the account has been moved here, or is being moved.
-- The row of the account is inserted from the one that marks it, because the trigger of a cell refuses
-- accounts of other cells. It cannot be used for anything else: requests of the administrator itself go
-- to its own cell, and its e-mail address here cannot be that of a person.
with mark as (
    insert into viewing_cell_accounts as a (id, cell, epoch, state)
    values ($1::uuid, $2::text, 0, 'mirror')
    on conflict (id) do update
    set cell = excluded.cell, state = excluded.state
    where a.state <> 'arrives' and a.cell <> $4::text
    returning a.id
)
insert into users as u (
    id, email, password_hash, subscription_tier, is_admin, is_active, created_at,
    pin_failed_attempts
)
select
    m.id,
    m.id || '@administrator.invalid',
    '!',
    'basic',
    true,
    true,
    $3::timestamptz,
    0
from mark as m
on conflict (id) do update
set is_admin = true, is_active = true
returning u.id as account_id
