-- Adds the constraint that all balances are before a day, not validated yet.
--
-- row: bound date                  that day, the first of a month
select viewing_balances_bound() as bound
