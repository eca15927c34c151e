"""Counts how long children watch, and enforces what their parents allow.

Reading order, from the outside in; a file imports only what comes after it:

    cli, cli_data, cli_import, cli_migrate
                        the command
    check, check_database
                        what would keep it from serving here
    demo, local_data    a family to try it with; what `run` keeps here
    server              the HTTP server
    protocol, request_head, cycle
                        HTTP on one connection: its bounds; a request's head; its response
    app                 every URL
    parts               what serves, opened in order and warmed, closed in reverse
    openapi, openapi_schemas, openapi_operations
                        the API described, from the routes and the types that serve
    heartbeat, balance, session, viewing_config, grant, pin, history, weekly_report, admin, health
                        a handler each: who, what, rule, statement, reply
    accounts, profiles, titles, imports
                        handlers for the platform that owns these: one by one, in bulk
    erasure             a handler for administrators: everything about a child, removed
    scrape, live        for operators: the numbers for Prometheus, a page of moving lines
    observed            every request counted, known by an id, logged
    redirect            a slash too many at the end of a path
    faults              the error table: what each exception answers
    telemetry           spans, where OpenTelemetry is installed and asked for
    pin_attempt         one counted attempt at a parent's PIN
    idempotency         a request that comes twice with one key, carried out once
    import_merge        an import's lines, staged and merged
    auth                who is calling
    exchange            a body in within bounds, JSON out
    context             all that a handler may reach
    retention_schedule  retention every so many hours
    deletion            what is too much to be deleted at once, deleted in batches
    pulse, readiness    the service watches its own event loop; can it work?
    import_lines        an import's lines, read and checked
    records             accounts, profiles and titles as they are sent
    heartbeat_writer    heartbeats written in batches, over connections of their own
    heartbeat_batch     one batch, whatever becomes of its statement
    heartbeat_queue     the heartbeats that wait, and which may leave next
    heartbeat_record    their statement: arguments, rows, refusals
    config_cache        configurations in memory
    config_loader       configurations from the database, in batches
    config_changes      changes of them, answered when every instance has heard
    retention, export   what is too old, deleted; a parent's copy of the rest
    pin_turns           one PIN of an account at a time
    pin_hasher, pin_pool, pin_worker
                        bcrypt in processes of its own
    keys, jwks          what tokens are signed with, and where the platform publishes it
    rights              the rights of the role, compared with what the service needs
    tables              the tables, compared with what the statements rely on
    migrate, migrate_session, schema
                        the schema, kept up; compared with what this version needs
    in_force            the settings of a connection, compared with what is relied on
    database            the pool; a statement is a file of `sql/` and a row type
    connector           how a connection is made, with which settings in force
    report_page         the weekly report as a page for people
    openapi_page, openapi_fields
                        the description as a page; what each field means
    week, dates         a child's week, dates in the reader's language
    negotiation         what a client would rather have
    ids                 ids of new rows, which sort by time
    rules               the viewing day, the limit, the verdict: pure
    wire                what a body, a path and a query may say
    dotenv, open_files  settings in a file; how many files may be open
    supervision         tasks that must not die, and what nobody waits for
    exposition          metrics in Prometheus' text format
    refusals            what rules of the platform's own refuse
    cures               what cures the errors of a database or a pooler
    driver              the errors of the PostgreSQL driver, told apart
    deadlines           no request waits for ever
    errors, settings, metrics, logs
    database_url        the address of the database, read for both drivers
    trace, process, version
                        what is known of the request at work, of the process, of the code
    embedded, postgres_programs
                        the PostgreSQL of `make run` and the tests
"""
