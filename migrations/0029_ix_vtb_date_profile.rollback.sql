-- Only this service uses the index, so it is dropped, without blocking other transactions.
drop index concurrently if exists ix_vtb_date_profile;
