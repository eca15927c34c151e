-- depends: 0003_hot_table_storage
--
-- Ends every open session of a profile; a heartbeat that starts a session calls it first.
--
-- Why a function: a profile has at most one open session, also when two instances start one for it
-- at the same time. The heartbeat is one statement, and a statement sees the rows that were
-- committed when it began. The session that the other instance is about to commit stays invisible
-- to it, however long it waits, so both would stay open. In a volatile function each statement has
-- a new snapshot. The lock is taken first, which waits for the other transaction to end; the update
-- after it sees the other session.
--
-- Why an advisory lock: the row to wait for may not exist yet. The lock belongs to the transaction,
-- so it covers the insert of the new session too and ends with the commit. Two profiles with the
-- same hash only wait for each other. A caller that starts sessions for several profiles in one
-- transaction must call this in the order of their ids, or two such transactions can deadlock.
--
-- The search path is that of the migration, under which the tables were made or found, so that the
-- function uses them whatever the caller's path is. It runs with the caller's rights.
create or replace function viewing_sessions_end_open(profile uuid, at timestamptz)
returns void
language plpgsql
volatile
set search_path from current
as $$
begin
    perform pg_advisory_xact_lock(uuid_hash_extended(profile, 0));

    update viewing_sessions
    set ended_at = at
    where profile_id = profile and ended_at is null;
end;
$$;
