"""What the service costs and how fast it answers, asked of the real thing.

A real PostgreSQL that syncs every commit, real service processes, real HTTP and tokens; what a
figure is compared with runs in the same minutes on the same machine. Reading order:

    __main__      the command; the questions by name
    statements, heartbeat, keys, arrivals, cold, batching, observing
                  a question each: `measure(bench)` gives its figures
    harness       the database, the peers, a measured window
    seed          the families in the database and the requests that their players send
    peer          a server process under load; echo is the one to compare with
    load, wrk     who sends the requests: our own client, or wrk where it is installed
    procfs        what processes used, by the kernel's account
    report        the results as JSON; chart, the same as a picture
    figure        a figure, its target, the table
"""
