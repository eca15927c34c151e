-- Only this service uses the table. Open links stop working.
set local lock_timeout = '2s';

drop table if exists viewing_report_links;
