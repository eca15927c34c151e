-- transactional: false
-- depends: 0007_ix_profiles_user
--
-- Finds the grants to a child: deleting the profile cascades to them, which would otherwise scan
-- all grants ever made. Grants are few, so the index costs next to nothing. Why concurrently:
-- see 0005.
create index concurrently if not exists ix_tg_profile
on time_grants (profile_id);
