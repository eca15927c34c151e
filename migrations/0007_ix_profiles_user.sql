-- transactional: false
-- depends: 0006_ix_vs_profile_started
--
-- Finds the profiles of an account: the weekly report asks for them, and deleting an account
-- cascades to them, which would otherwise scan the table. Why concurrently: see 0005.
create index concurrently if not exists ix_profiles_user
on profiles (user_id);
