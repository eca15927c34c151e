-- Validates the constraint of migration_partition_bound: reads all rows without blocking.
alter table viewing_time_balances validate constraint ck_vtb_before
