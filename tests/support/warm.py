"""`mdash` and `python3` for shells that start in a moment: what they run is forked, see `forked`.

The commands in a folder for PATH are small clients. They hand their arguments, environment and file descriptors to this
process, pass signals on, and end as the program ends.
"""

from __future__ import annotations

import ast
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from forked import CHEAP_MDASH, Forked

__all__ = ["PROGRAMS", "warm_programs"]

PROGRAMS: Mapping[str, Sequence[str]] = {"mdash": CHEAP_MDASH, "python3": ()}

CLIENT = """#!{python} -ISE
import os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
order = repr(({arguments!r} + sys.argv[1:], dict(os.environ), os.getcwd())).encode()
socket.send_fds(server, [len(order).to_bytes(8, "big")], [0, 1, 2])
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, _: server.send(bytes((number,))))
server.sendall(order)
code = int(server.recv(16) or 255)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextmanager
def warm_programs(folder: Path) -> Iterator[None]:
    """Write `PROGRAMS` into a folder, and run them while the context lasts."""
    address = str(folder / "socket")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(address)
        listener.listen()
        for name, arguments in PROGRAMS.items():
            client = CLIENT.format(python=sys.executable, address=address, arguments=list(arguments))
            (folder / name).write_text(client)
            (folder / name).chmod(0o755)
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread


def _accept(listener: socket.socket) -> None:
    """Serve each client in a thread."""
    with suppress(OSError):  # closed
        while True:
            threading.Thread(target=_serve, args=listener.accept()[:1], daemon=True).start()


def _serve(client: socket.socket) -> None:
    """Run a program for a client, until it or the client ends."""
    with client, client.makefile("rb") as order:
        size, ends, _, _ = socket.recv_fds(client, 8, 3)
        arguments, env, cwd = ast.literal_eval(order.read(int.from_bytes(size, "big")).decode())
        stdin, stdout, stderr = ends
        try:
            program = Forked(*arguments, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr)
        finally:
            for end in ends:
                os.close(end)
        while program.returncode is None:
            multiprocessing.connection.wait([client, program.sentinel])
            if program.returncode is None:
                for number in client.recv(16) or (signal.SIGKILL,):
                    program.send_signal(number)
        with suppress(BrokenPipeError):
            client.sendall(str(program.returncode).encode())
