-- Lists the migrations that are recorded as applied.
--
-- row: migration_id varchar        the file's name without `.sql`
--
-- Reads yoyo's record and does not create a missing one. It takes no lock that a migration waits
-- for, so it may run during one.
select m.migration_id
from _yoyo_migration as m
