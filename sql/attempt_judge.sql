-- Makes a wrong attempt count for good, before its client receives the verdict.
--
-- $1 attempt_id uuid
--
-- row: is_done bool
--
-- No row: the attempt took too long and was given back; its client must not receive the verdict.
delete from viewing_time_attempts as a
where a.id = $1::uuid
returning true as is_done
