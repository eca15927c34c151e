-- Only this service uses the table. Requests that are repeated afterwards are carried out again.
set local lock_timeout = '2s';

drop table if exists viewing_time_request_keys;
