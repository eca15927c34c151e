-- Asks the database whether it is there.
--
-- row: answer int
--
-- Reads nothing, so the answer says only that a connection works and a backend is free to reply.
select 1 as answer
