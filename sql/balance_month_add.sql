-- Creates the next missing partition of balances, a month.
--
-- $1 is_forced bool                also if many rows are in the default partition; heartbeats may wait
--
-- row: added text                  its name; null: nothing to do
--
-- Migration 0031 has the function and its reasons. It gives up waiting for a lock after 50 ms.
select viewing_balance_month_add($1::bool) as added
