-- transactional: false
-- depends: 0006_ix_vs_profile_started
--
-- Finds the profiles of an account, for the weekly report and for the cascade when an account is
-- deleted, which would otherwise scan the table. 0005 says why it is built concurrently.
create index concurrently if not exists ix_profiles_user
on profiles (user_id);
