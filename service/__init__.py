"""Counts how long children watch, and enforces what their parents allow.

Reading order, from the outside in; a file imports only what comes after it:

    cli, server         the command, the HTTP server
    app                 every URL, the lifespan that builds the parts, the error table
    heartbeat, balance, session, viewing_config, grant, pin, history, weekly_report, admin, health
                        a handler each: who, what, rule, statement, reply
    pin_attempt         one counted attempt at a parent's PIN
    auth                who is calling
    context             all that a handler may reach
    heartbeat_writer    heartbeats that wait travel together
    config_cache        configurations in memory
    pin_hasher          bcrypt in processes of its own
    keys, jwks          what tokens are signed with, and where the platform publishes it
    database            the pool; a statement is a file of `sql/` and a row type
    report_page         the weekly report as a page for people
    week, dates         a child's week, dates in the reader's language
    negotiation         what a client would rather have
    rules               the viewing day, the limit, the verdict: pure
    exchange, wire      bodies in, JSON out
    dotenv              settings in a file
    errors, settings, metrics, logs
"""
