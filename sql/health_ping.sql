-- Asks the database whether it is there and takes writes.
--
-- row: is_writable bool
--
-- Reads no table, so the answer says only that a connection works, a backend is free to reply, and
-- the server has not handed over to another.
select current_setting('transaction_read_only') = 'off' as is_writable
