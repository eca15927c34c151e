-- Tells whether the session is as it was started, and who else uses the database.
--
-- row: is_as_started bool          the options of its start are in force
-- row: services int8               connections of running services
--
-- A pooler can drop the options without an error. Through one, a session lock would belong to a
-- connection that others use next, and would stay when this process has gone.
-- Every role sees the application name of every session; the address can give another to both.
select
    current_setting('lock_timeout') = '1min' as is_as_started,
    (
        select count(*)
        from pg_stat_activity as a
        where a.datname = current_database()
            and a.pid <> pg_backend_pid()
            and a.application_name in (
                'viewing-time',
                nullif(current_setting('application_name'), 'viewing-time migrate')
            )
    ) as services
