"""Python programs that start in a moment: forked from a process that has imported already what they would import.

To import the server takes a second of a core, and some hundred tests start one. What runs is the same program with the
same arguments, in a process of its own, which may be killed like any other.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import runpy
import signal
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import trio

__all__ = ["CHEAP_MDASH", "Forked", "Piped", "piped"]

PRELOADED = [f"mdashcore.cli.{name}" for name in ("serve", "demo", "device", "notify", "ota", "rollout", "remote")]
PRELOADED += ["mdashcore.server.app", "mdashcore.virtual_device.connect", "trio_websocket", "logging.config"]
PRELOADED += ["httpx", "rich.console", "rich.table", "websockets.sync.client", "mdashcore.testing.device"]
PRELOADED += [f"mdash_backends.{name}" for name in ("filesystem", "memory", "redis", "sqlite")]

CHEAP_MDASH = (
    "-c",
    """
import functools, sys, argon2
argon2.PasswordHasher = functools.partial(argon2.PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
from mdashcore.cli import main
sys.exit(main(sys.argv[1:]))
""",
)
"""The command ``mdash`` with passwords that cost nothing to check: in many tests accounts log in for the first time."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)

_polling = threading.Lock()
"""Of two threads that ask for one exit code, only one would get it; to start a process asks for those of all others."""


class Forked:
    """A running program.

    Args:
        arguments: those of `python`: the path of a program, or ``-m`` and a module, or ``-c`` and a text, and what
            that takes; before it, ``-W`` and what is done with warnings.
        env: its environment; by default this process's.
        cwd: its folder; by default this process's.
        stdin, stdout, stderr: its file descriptors, which stay the caller's; by default this process's.
        ignored: signals that it is started with ignored, as a shell does with what it puts into the background. All
            others have their defaults, whatever this process ignores.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: int = 0,
        stdout: int = 1,
        stderr: int = 2,
        ignored: Sequence[int] = (),
    ) -> None:
        ends = [Connection(os.dup(end)) for end in (stdin, stdout, stderr)]
        folder = os.getcwd() if cwd is None else str(cwd)
        given = (arguments, dict(os.environ if env is None else env), folder, ends, tuple(ignored))
        self._process = _context.Process(target=_run, args=given, daemon=True)
        with _polling:
            self._process.start()
        for end in ends:
            end.close()
        self.pid = int(self._process.pid or 0)

    @property
    def sentinel(self) -> int:
        """What becomes readable with its end."""
        return self._process.sentinel

    @property
    def returncode(self) -> int | None:
        """As `subprocess` has it; `None` while it runs."""
        with _polling:
            return self._process.exitcode

    async def wait_async(self) -> int:
        """Wait for its end: the exit code."""
        await trio.lowlevel.wait_readable(self.sentinel)
        return self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """The same without Trio. Raises `TimeoutError`."""
        multiprocessing.connection.wait([self.sentinel], timeout)
        code = self.returncode
        if code is None:
            raise TimeoutError
        return code

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
        self.wait()


class Piped(Forked):
    """A program whose output is read with Trio."""

    output: trio.lowlevel.FdStream
    errors: trio.lowlevel.FdStream


@asynccontextmanager
async def piped(
    *arguments: str, stdin: int | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[Piped]:
    """Run a program; killed at the end. Its stdin is empty by default."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    (output, its_output), (errors, its_errors) = os.pipe(), os.pipe()
    process = Piped(
        *arguments, env=env, stdin=nothing if stdin is None else stdin, stdout=its_output, stderr=its_errors
    )
    for end in (nothing, its_output, its_errors):
        os.close(end)
    try:
        async with trio.lowlevel.FdStream(output) as process.output, trio.lowlevel.FdStream(errors) as process.errors:
            yield process
    finally:
        process.kill()


def _run(
    arguments: Sequence[str], env: Mapping[str, str], folder: str, ends: Sequence[Connection], ignored: Sequence[int]
) -> None:
    """Be the program."""
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the program; multiprocessing has given it nothing
    os.setsid()  # what is sent to the terminal's programs is not meant for it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    if arguments[0] == "-W":
        warnings.simplefilter(arguments[1])  # type: ignore[arg-type]
        arguments = arguments[2:]
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
