"""Several processes that serve one port: workers, under a small parent that serves nothing itself.

Each worker is a whole server, and a node of the cluster on the shared store. It listens on the port by itself
(``SO_REUSEPORT``), so no connection passes through another process. The parent starts the workers, starts one again
that has died, passes signals on, and passes the metrics of all workers to the one that is asked for them.

Parent and worker talk over a pair of sockets. Its end tells the worker that the parent has gone.
"""
