-- Takes the lock that allows one retention run at a time, if it is free.
--
-- row: is_taken bool               this transaction now holds the lock, until it ends
-- row: idle_limit text             limit for idle time of the transaction: 0, none
-- row: transaction_limit text      limit for its duration: 0, none; null before PostgreSQL 17
--
-- The lock belongs to a transaction that stays open, on a connection of its own, during the run. So
-- it works through a transaction pooler, and the server releases it when the process dies.
-- The transaction writes nothing and is read committed: between statements it has no snapshot, so
-- vacuum can remove dead rows.
-- It is a lock of the cell; 0 is the only cell. A key of two ints cannot collide with the bigint keys
-- with which heartbeats lock profiles.
select
    pg_try_advisory_xact_lock(
        hashtext('viewing-time retention'),
        coalesce((select hashtext(c.name) from viewing_cell as c), 0)
    ) as is_taken,
    set_config('idle_in_transaction_session_timeout', '0', true) as idle_limit,
    case
        when current_setting('transaction_timeout', true) is not null
        then set_config('transaction_timeout', '0', true)
    end as transaction_limit
