-- Ours alone, and nothing that lasts: counts of guesses, most of them a second old.
set local lock_timeout = '2s';

drop table if exists viewing_time_attempts;

drop table if exists viewing_time_password_failures;
