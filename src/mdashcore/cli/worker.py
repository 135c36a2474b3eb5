"""One worker of ``mdash serve --workers``, which starts it: a process that serves the port beside others.

It is no command for people. Its stdin is the channel to its parent, from which it has its settings.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys

from mdashcore.cli.exits import Exit, report

__all__ = ["main"]


def main() -> int:
    """Run until the parent or a signal ends it. Returns the exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it has a certificate that could be read again
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent decides what SIGINT is meant for
    try:
        import trio

        trio.run(_work, _channel_socket())
    except BaseException as exc:
        return report(exc)
    return Exit.OK


def _channel_socket() -> socket.socket:
    """Take the channel from stdin, which reads nothing then."""
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return channel


async def _work(sock: socket.socket) -> None:
    import trio

    from mdashcore.cli.process import set_up_process
    from mdashcore.cli.serve import warn_without_users
    from mdashcore.server import run
    from mdashcore.server.workers.channel import Channel, Task
    from mdashcore.server.workers.parent import Parent
    from mdashcore.server.workers.task import WorkerTask

    channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
    first = await channel.receive()
    if not isinstance(first, Task):
        return  # the parent has ended already
    task: WorkerTask = pickle.loads(first.pickled)  # noqa: S301 - of the parent, which is the same program
    config = task.config
    set_up_process(config.log_level, config.log_format, worker=task.number)
    parent = Parent(channel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.write)
        nursery.start_soon(parent.run)
        await run.serve(
            config,
            on_start=warn_without_users if task.is_first else None,
            reset_passwords=task.reset_passwords,
            manager=parent,
            hurried_by={signal.SIGINT},
            worker_metrics=parent,
        )
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
