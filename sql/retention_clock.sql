-- Reads the server's clock, from which retention counts ages.
--
-- row: clock timestamptz
select clock_timestamp() as clock
