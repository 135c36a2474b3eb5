"""Child processes, each pinned to a core, which end with their parent; and their use of the machine.

Linux only: affinity, and ``/proc``.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["LOAD_CORE", "ROOT", "SERVER_CORE", "Child", "Failed", "child", "describe", "on_core", "settle"]

ROOT = Path(__file__).parent.parent

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = _CORES[0], _CORES[-1]
"""The same core if there is no second: every figure is lower then, and the output says so."""

PATIENCE = 60.0  # seconds for a line of a child: ten thousand devices are registered in five
_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Failed(Exception):
    """A child did not answer. The text contains its stderr."""


class Child:
    """A process that reads and writes lines of JSON."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], errors: Any) -> None:
        self.name = name
        self.process = process
        self._errors = errors
        self._unread = b""

    def read(self, timeout: float = PATIENCE) -> Any:
        """Read the next line. Raises `Failed`."""
        assert self.process.stdout is not None
        stdout, deadline = self.process.stdout.fileno(), time.monotonic() + timeout
        while b"\n" not in self._unread:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(stdout, 2**16) if ready else b""
            if not data:
                raise Failed(f"{self.name} {'has ended' if ready else 'says nothing'}: {self._said()}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def write(self, value: object) -> None:
        """Write a line."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(value).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.name} has ended: {self._said()}") from None

    def ask(self, value: object, timeout: float = PATIENCE) -> Any:
        """Write a line, and read one."""
        self.write(value)
        return self.read(timeout)

    def cpu(self) -> float:
        """Return the seconds of processor time that all its threads have used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> int:
        """Return the bytes of its private memory, without shared pages of libraries."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return 1024 * sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode(errors="replace").strip() or "nothing on stderr"


@contextmanager
def child(name: str, command: Sequence[str], *, core: int | None) -> Iterator[Child]:
    """Run a process for as long as the context lasts. It is killed at the end, or when this process dies.

    Args:
        core: the core that it runs on; `None` leaves the choice to the system.
    """

    def prepare() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, preexec_fn=prepare
        )
        try:
            yield Child(name, process, errors)
        finally:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                try:
                    assert pipe is not None
                    pipe.close()
                except BrokenPipeError:
                    pass
            process.wait()


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this process itself on a core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def settle(server: Child, *, pause: float = 0.25, at_most: float = 20.0) -> None:
    """Wait until a server is idle: less than a twentieth of its core, twice in a row."""
    deadline, calm, before = time.monotonic() + at_most, 0, server.cpu()
    while calm < 2 and time.monotonic() < deadline:
        time.sleep(pause)
        now = server.cpu()
        calm = calm + 1 if now - before <= pause / 20 else 0
        before = now


def describe() -> dict[str, Any]:
    """Describe the machine, as far as figures depend on it."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(_CORES),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }
