-- Turns the table of balances into one with partitions; blocks heartbeats for milliseconds.
--
-- $1 bound date                    of migration_partition_bound
--
-- row: swapped void
select viewing_balances_partition($1::date) as swapped
