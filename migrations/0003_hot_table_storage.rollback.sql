-- Restores the server's defaults, under the same short lock as the migration.
set local lock_timeout = '2s';

alter table viewing_time_balances reset (
    fillfactor,
    autovacuum_vacuum_scale_factor,
    autovacuum_analyze_scale_factor
);

alter table viewing_sessions reset (
    fillfactor,
    autovacuum_vacuum_scale_factor,
    autovacuum_analyze_scale_factor
);
