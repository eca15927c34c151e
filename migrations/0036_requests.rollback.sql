-- Only this service uses the table. The column of time_grants stays: it records decisions of parents.
set local lock_timeout = '2s';

drop table if exists viewing_requests;
