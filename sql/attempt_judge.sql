-- Makes an attempt count for good: it was wrong, and its caller is about to hear so.
--
-- $1 attempt_id uuid
--
-- row: is_judged bool
--
-- No row: the attempt was given back, for it took too long; its caller must not hear the verdict.
delete from viewing_time_attempts as a
where a.id = $1::uuid
returning true as is_judged
