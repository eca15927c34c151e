-- Reads the properties of the server that decide whether the service can run on it.
--
-- row: version int                 as in server_version_num: 180006 is 18.6
-- row: clock timestamptz           the server's clock
-- row: is_standby bool             it rejects writes
-- row: connections_most int        the limit for this role in this database
-- row: connections_elsewhere int   held by other clients than this service
--
-- A role without rights sees the connections of other roles but not their kind: they all count.
-- A limit of -1 on a role or a database means no limit, and `least` ignores nulls.
select
    current_setting('server_version_num')::int as version,
    clock_timestamp() as clock,
    pg_is_in_recovery() as is_standby,
    least(
        current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0),
        nullif(d.datconnlimit, -1),
        nullif(r.rolconnlimit, -1)
    ) as connections_most,
    (
        select count(*)::int
        from pg_stat_activity as a
        where a.datid is not null
            and coalesce(a.backend_type, 'client backend') = 'client backend'
            and a.application_name <> current_setting('application_name')
            and a.application_name not like 'viewing-time listener %'
    ) as connections_elsewhere
from pg_database as d
cross join pg_roles as r
where d.datname = current_database() and r.rolname = current_user
