-- transactional: false
-- depends: 0008_ix_tg_profile
--
-- Finds the grants by an account: deleting the account cascades to them, as to those of 0008.
-- Why concurrently: see 0005.
create index concurrently if not exists ix_tg_granted_by
on time_grants (granted_by_user_id);
