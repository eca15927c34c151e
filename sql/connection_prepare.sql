-- Sets the settings of a new connection that cannot be sent with its start.
--
-- row: synchronous_commit text     null: unchanged, because it was not off
-- row: idle_session_timeout text   null: there was none
-- row: transaction_timeout text    null: there was none
--
-- `synchronous_commit` is raised only from off, with which a crash could lose an answered heartbeat;
-- remote_apply and other values are the operator's choice. The two time-outs would close idle
-- connections of the pool and end long imports. They exist since versions 14 and 17, and a server
-- rejects a connection that is started with an unknown setting.
select
    case
        when current_setting('synchronous_commit') = 'off'
        then set_config('synchronous_commit', 'on', false)
    end as synchronous_commit,
    case
        when current_setting('idle_session_timeout', true) <> '0'
        then set_config('idle_session_timeout', '0', false)
    end as idle_session_timeout,
    case
        when current_setting('transaction_timeout', true) <> '0'
        then set_config('transaction_timeout', '0', false)
    end as transaction_timeout
