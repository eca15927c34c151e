-- Drops the constraint of migration_partition_bound if it is there.
--
-- row: dropped void
select viewing_balances_unbound() as dropped
