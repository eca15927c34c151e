-- transactional: false
-- depends: 0007_ix_profiles_user
--
-- Finds the grants to a child: deleting the profile cascades to them, which would otherwise scan
-- all grants. Grants are few, so the index costs next to nothing. 0005 says why it is built
-- concurrently.
create index concurrently if not exists ix_tg_profile
on time_grants (profile_id);
