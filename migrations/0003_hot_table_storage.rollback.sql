-- Back to the server's defaults. The same short lock as on the way forward.
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
