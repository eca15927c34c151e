-- Tells whether the database has the extension Citus, for which migrating installs functions.
--
-- row: has_citus bool
select exists (select from pg_extension as e where e.extname = 'citus') as has_citus
