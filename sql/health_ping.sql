-- Checks that the database answers and accepts writes.
--
-- row: is_writable bool
--
-- It reads no table: an answer means that the connection works, that a backend replies, and whether
-- the server is still the primary.
select current_setting('transaction_read_only') = 'off' as is_writable
