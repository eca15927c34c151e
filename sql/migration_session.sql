-- Checks that the options of the connection are in force, and counts running services.
--
-- row: is_as_started bool          the options of the start are in force
-- row: services int8               connections of running services
--
-- A pooler can drop the options without an error. Behind one, a session lock would belong to a
-- connection that other clients use next, and would stay after this process has ended.
-- Every role sees the application name of every connection; the address can replace both names.
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
