"""Measures the cost and the speed of the service as operators run it.

It uses a PostgreSQL that syncs every commit, service processes, HTTP and signed tokens. The servers
to compare with run at the same time on the same machine. Reading order:

    __main__      the command; the questions by name
    statements, heartbeat, keys, arrivals, curve, languages, reconnect, cache, pin, reads,
    observing, policy, batching
                  one question each: `measure(bench)` returns its figures
    growth        a question that only its name asks: tables that have grown
    instances     another one: several instances on one database
    decisions     figures of `policy` without a server
    against       the question that compares with another commit
    verdict       error responses, missed targets, ratios worse than the committed run's
    harness       the database, the peers, a measured window
    seed          the rows of the database, and the requests of their players
    ports         where servers listen
    peer          a server process under load; `echo` is the one to compare with
    peers         heartbeat services in Go and Node.js, one statement a heartbeat
    load, open_loop, burst, wrk
                  the clients: our own, in flight, at a fixed rate or all at once; wrk if it is
                  installed
    load_process  runs our own client, connected before the window and until after it
    plan          the load for a client, and its outcome
    procfs        CPU time and memory of processes
    report        the results as JSON; `chart` draws them
    figure        a figure, its target, the table
"""
