-- Only this service uses the tables, and their counts of attempts last about a second.
set local lock_timeout = '2s';

drop table if exists viewing_time_attempts;

drop table if exists viewing_time_password_failures;
