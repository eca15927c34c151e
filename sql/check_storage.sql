-- Reads how the two tables of heartbeats are stored, and how often the server writes checkpoints.
--
-- row: days_left int               until the partitions of balances end; null: not partitioned
-- row: default_rows int8           in the default partition, approximately
-- row: has_bound bool              an interrupted `viewing-time partition` has left its constraint
-- row: bytes int8                  of both tables, without indexes
-- row: slow_table text             one without fillfactor or with autovacuum off; null: none
-- row: checkpoint_seconds int      the longest time between two checkpoints
-- row: log_megabytes int           the log after which a checkpoint begins
--
-- Reads the catalogue only, so it needs no right. Migration 0031 has the partitions.
with parts as (
    select c.oid, c.relname, c.reloptions, pg_get_expr(c.relpartbound, c.oid) as bounds
    from pg_class as c
    left join pg_inherits as i on i.inhrelid = c.oid
    where c.relkind = 'r'
        and (
            c.oid in ('viewing_sessions'::regclass, 'viewing_time_balances'::regclass)
            or i.inhparent = 'viewing_time_balances'::regclass
        )
)
select
    max(substring(p.bounds from 'TO \(''([0-9-]+)''\)')::date) - current_date as days_left,
    coalesce(
        sum(pg_stat_get_live_tuples(p.oid)) filter (where p.bounds = 'DEFAULT'), 0
    )::int8 as default_rows,
    exists (
        select
        from pg_constraint as k
        where k.conrelid = 'viewing_time_balances'::regclass and k.conname = 'ck_vtb_before'
    ) as has_bound,
    sum(pg_table_size(p.oid))::int8 as bytes,
    min(p.relname::text) filter (
        where not exists (
            select from unnest(p.reloptions) as o (setting) where o.setting like 'fillfactor=%'
        )
        or exists (
            select
            from unnest(p.reloptions) as o (setting)
            where o.setting ~* '^autovacuum_enabled=(false|off|no|f|n|0)$'
        )
    ) as slow_table,
    extract(epoch from current_setting('checkpoint_timeout')::interval)::int
        as checkpoint_seconds,
    (select s.setting::int from pg_settings as s where s.name = 'max_wal_size') as log_megabytes
from parts as p
