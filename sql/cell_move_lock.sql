-- Takes the lock of the command that moves accounts from or to this cell, until its connection ends.
--
-- $1 cell text                     name; the cells of one database share its advisory locks
--
-- row: is_locked bool              false: another command has it
-- row: seqscan text
--
-- From then on the connection finds rows by an index: its plans are kept while tables grow.
select
    pg_try_advisory_lock(hashtextextended('viewing-time moves ' || $1::text, 0)) as is_locked,
    set_config('enable_seqscan', 'off', false) as seqscan
