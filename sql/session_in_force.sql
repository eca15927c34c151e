-- Reads the settings in force on this connection, and their sources.
--
-- $1 names text[]
--
-- row: name text
-- row: setting text                in the setting's own unit: milliseconds for time-outs
-- row: reset_value text            at the start of the connection
-- row: source text                 user, database, database user, configuration file, client, ...
-- row: role_name text
-- row: database_name text
--
-- Settings that this version of the server does not know have no row.
select
    s.name,
    s.setting,
    s.reset_val as reset_value,
    s.source,
    current_user::text as role_name,
    current_database()::text as database_name
from pg_settings as s
where s.name = any ($1::text[])
