"""Python programs that start in a moment: forked from a process that has imported already what they would import.

To import the server takes a second of a core, and some hundred tests start one. What runs is the same program with the
same arguments, in a process of its own, which may be killed like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import trio
from children import default_signals

__all__ = ["Forked"]

PRELOADED = ["mdashcore.cli.serve", "mdashcore.cli.demo", "mdashcore.server.app", "trio_websocket", "logging.config"]
PRELOADED += [f"mdash_backends.{name}" for name in ("filesystem", "memory", "redis", "sqlite")]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Forked:
    """A running program.

    Args:
        arguments: those of `python`: the path of a program, or ``-m`` and a module, or ``-c`` and a text; and what
            that takes.
        env: its environment; by default this process's.
        stdin, stdout, stderr: its file descriptors, which stay the caller's; by default this process's.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdin: int = 0,
        stdout: int = 1,
        stderr: int = 2,
    ) -> None:
        ends = [Connection(os.dup(end)) for end in (stdin, stdout, stderr)]
        given = (arguments, dict(os.environ if env is None else env), os.getcwd(), ends)
        self._process = _context.Process(target=_run, args=given, daemon=True)
        with default_signals():
            self._process.start()
        for end in ends:
            end.close()
        self.pid = int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        """As `subprocess` has it; `None` while it runs."""
        return self._process.exitcode

    async def wait_async(self) -> int:
        """Wait for its end: the exit code."""
        await trio.lowlevel.wait_readable(self._process.sentinel)
        return self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """The same without Trio. Raises `TimeoutError`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError
        return self._process.exitcode

    def poll(self) -> int | None:
        """`returncode`."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, and see it gone."""
        self.send_signal(signal.SIGKILL)
        self._process.join()


def _run(arguments: Sequence[str], env: Mapping[str, str], folder: str, ends: Sequence[Connection]) -> None:
    """Be the program."""
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    os.setsid()  # what is sent to the terminal's programs is not meant for it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - a test's own
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
