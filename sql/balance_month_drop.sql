-- Drops the oldest partition of balances if all its viewing days are expired.
--
-- $1 before date                   viewing days before this one are expired
--
-- row: partition_name text         null: no partition is that old
-- row: deleted int8                its rows
--
-- Migration 0031 has the function and its reasons. It gives up waiting for a lock after 50 ms.
select d.partition_name, d.deleted
from viewing_balance_month_drop($1::date) as d
