-- Reads the clock of the server, from which a run counts back.
--
-- row: clock timestamptz           the server's own, as it answers
select clock_timestamp() as clock
