-- transactional: false
-- depends: 0008_ix_tg_profile
--
-- Finds the grants by an account: deleting the account cascades to them, as in 0008. 0005 says why
-- it is built concurrently.
create index concurrently if not exists ix_tg_granted_by
on time_grants (granted_by_user_id);
