-- transactional: false
-- depends: 0012_pin_attempts
--
-- Finds the sessions of a title, for its deletion. 0001 preferred one scan. Over 500 million
-- sessions that scan takes too long, and the foreign key repeats it under the lock of the title,
-- even if all its sessions have been deleted before.
--
-- A title has many sessions, and the server stores equal keys once, with a list: the index is the
-- smallest of the table. A heartbeat does not write to it, and a new session adds one entry. 0005
-- says why it is built concurrently.
create index concurrently if not exists ix_vs_title
on viewing_sessions (title_id);
