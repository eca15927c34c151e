set local lock_timeout = '2s';

drop function if exists viewing_account_remove (uuid[]);

drop function if exists viewing_account_write (text[], text[]);

drop function if exists viewing_account_rows (uuid[], bool);

drop function if exists viewing_account_hold (uuid[]);

drop function if exists viewing_account_tables ();
