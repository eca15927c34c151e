"""Counts how long children watch on a streaming platform, and enforces what their parents allow.

The packages of the callers import one core, in the order of `[tool.importlinter]`.

    command/      the command `viewing-time`: serve, run, migrate, check, import, erase, export …
    server.py     the process, listeners.py its sockets; startup.py opens the parts in order
    app.py        every URL
    dispatch.py   heartbeats past Starlette, all other requests through it
    errors.py     every error sentence; settings.py every setting, setting_values.py how it is read
    players/  parents/  platform/  operators/    a module for each URL, by who calls it
    openapi/      the description of the API, from the routes and their types
    http/         between the socket and a handler: requests, identity, bodies, error responses
    viewing/      the core: rules, cached configurations, heartbeats written in batches
    database/     pool, statements, migrations, and checks of the server, the schema and the rights
    credentials/  signatures and keys of tokens, hashing of PINs
    observing/    counts, logs, traces, the event loop, supervised tasks
    embedded/     the PostgreSQL of `make run` and the tests
"""
