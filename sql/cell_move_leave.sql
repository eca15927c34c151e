-- Notes that accounts have moved to another cell, and makes this cell's instances forget their policies.
--
-- $1 account_ids uuid[]
-- $2 target text                   name of the cell
-- $3 epoch int8
--
-- row: notifications int8          number sent, one for each profile
with entries as (
    insert into viewing_cell_accounts as e (id, cell, epoch, state)
    select a.id, $2::text, $3::int8, 'lives'
    from unnest($1::uuid[]) as a (id)
    on conflict (id) do update
    set cell = excluded.cell, epoch = excluded.epoch, state = excluded.state
)
select
    count(
        pg_notify(
            'viewing_config_changed', concat_ws(' ', 'deleted', p.user_id::text, p.id::text)
        )
    ) as notifications
from profiles as p
where p.user_id = any ($1::uuid[])
