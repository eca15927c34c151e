-- transactional: false
-- depends: 0012_pin_attempts
--
-- Finds the sessions of a title, for its deletion. 0001 wanted no such index and one scan instead:
-- over 500 million sessions that scan never ends in time, and the foreign key makes it under the
-- lock of the title, also where all its sessions have been deleted before.
--
-- A title has many sessions, and the server keeps equal keys once, with a list: the index is the
-- smallest of the table, a beat does not touch it, and a new session pays for one entry more.
-- Why concurrently: see 0005.
create index concurrently if not exists ix_vs_title
on viewing_sessions (title_id);
