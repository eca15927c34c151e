-- Only this service uses the tables. Without them several cells cannot be served.
set local lock_timeout = '2s';

drop trigger if exists viewing_cell_guard on users;
drop function if exists viewing_cell_join(text);
drop function if exists viewing_cell_guard();
drop function if exists viewing_cell_slot(uuid);
drop table if exists viewing_cell_accounts;
drop table if exists viewing_cell_slots;
drop table if exists viewing_cell;
