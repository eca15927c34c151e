-- Names the connection that listens for changes, so that other instances find it.
--
-- $1 name text                     with the id of the instance
--
-- row: name text                   the current name
--
-- A statement, not a start parameter, because the address can contain an `application_name`.
select set_config('application_name', $1::text, false) as name
