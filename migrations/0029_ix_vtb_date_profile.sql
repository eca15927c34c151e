-- transactional: false
-- depends: 0028_heartbeat_parts
--
-- Finds the balances of one viewing day next to each other. Every heartbeat finds its day's balance
-- here: the entries of a day share few pages, however long the history is. In uq_vtb_profile_date
-- each profile has its own page, so heartbeats of many profiles read and keep the whole index.
--
-- uq_vtb_profile_date stays: it is a constraint of the contract, the foreign key deletes by it, and
-- reports, exports, deletion and retention read a profile's days in it. A new balance adds an entry
-- to both. `on conflict (profile_id, reset_date)` uses every valid unique index of these columns,
-- before, during and after the build. During the build, two transactions that add the same balance at
-- the same moment can get a unique violation: heartbeats are retried after it.
--
-- Unique, so that the planner expects one row without statistics. 0005 says why it is built
-- concurrently.
create unique index concurrently if not exists ix_vtb_date_profile
on viewing_time_balances (reset_date, profile_id);
