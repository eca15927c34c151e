-- Drops the functions. A table with partitions keeps them and works without the functions: rows of
-- months without a partition go to the default one.
set local lock_timeout = '2s';

drop function if exists viewing_balance_month_add (bool);

drop function if exists viewing_balance_month_drop (date);

drop function if exists viewing_balances_partition (date);

drop function if exists viewing_balances_bound ();

drop function if exists viewing_balances_unbound ();

drop function if exists viewing_balances_obstacle ();

drop function if exists viewing_copy_rights (regclass, regclass);

drop function if exists viewing_balance_partitions ();
