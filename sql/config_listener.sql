-- Names the connection that listens for changes, for the instances that make them.
--
-- $1 name text                     of the connection, with the id of the instance
--
-- row: name text                   as it is now
--
-- A statement and not a start parameter: an address may bring an `application_name` of its own.
select set_config('application_name', $1::text, false) as name
