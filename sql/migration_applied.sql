-- Lists the migrations that are recorded as applied.
--
-- row: migration_id varchar        the file's name without `.sql`
--
-- Reads the record that yoyo keeps, and does not make it where it is missing: asking changes
-- nothing and waits for nobody, so it may be asked while a migration runs.
select m.migration_id
from _yoyo_migration as m
