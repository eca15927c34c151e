-- depends: 0003_hot_table_storage
--
-- Ends every open session of a profile; a beat that starts a session calls it first.
--
-- Why a function: a profile has at most one open session, also when two instances start one for
-- it in the same moment. The heartbeat is one statement, and a statement sees what was committed
-- when it began: the session that the other instance is about to commit stays invisible to it,
-- whatever it waits for, and both would stay open. A volatile function is different, each of its
-- statements looks anew. So the lock is taken first, which waits for the other's transaction to
-- end, and the update after it finds the other's session.
--
-- Why an advisory lock: the row to wait for may not exist yet. It is the transaction's, so it
-- covers the insert of the new session too, and is gone with the commit. Two profiles that share
-- a hash only wait for each other. Who starts sessions for several profiles in one transaction
-- must call this in the order of their ids, or two such transactions can deadlock.
--
-- The search path is the one in force now, under which the tables were made or found, so that the
-- function means them whatever the caller's path is. It runs with the caller's rights.
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
