"""One worker, as the parent sees it: its process, which may be started many times, and the channel to it."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import trio

from mdashcore.server.workers.channel import (
    Alive,
    AllMetrics,
    Channel,
    GetMetrics,
    PackedMetrics,
    Ready,
    Stopping,
    Task,
    WantMetrics,
)
from mdashcore.server.workers.task import WorkerTask

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """A worker.

    Args:
        command: starts its process, whose stdin is the channel.
        on_metrics_wanted: called with this worker when it wants the metrics of all.
    """

    def __init__(
        self, number: int, command: Sequence[str], on_metrics_wanted: Callable[[WorkerProcess], Awaitable[None]]
    ) -> None:
        self.number = number
        self.starts: int = 0
        """How often its process was started."""
        self.failures = 0
        """How often in a row it has ended by itself."""
        self.was_ready: trio.Event = trio.Event()
        """Set when it accepts connections for the first time."""
        self.is_ready: bool = False
        """Whether its process accepts connections, or did so until it has ended."""
        self.place: Ready | None = None
        """Its addresses, which are those of all workers."""
        self.store_answers: bool = True
        self._command = command
        self._on_metrics_wanted = on_metrics_wanted
        self._process: trio.Process | None = None
        self._channel: Channel | None = None
        self._stopping_at: float | None = None
        self._late_signal: int | None = None
        """The signal that the process gets when it receives signals."""
        self._ready_at = 0.0
        self._alive_at = 0.0
        self._reload_wanted = False
        self._reloaded = trio.Event()
        self._pausing: trio.Event | None = None
        self._idle = trio.Event()
        self._idle.set()
        self._next_id = 0
        self._asked: dict[int, tuple[trio.Event, list[bytes]]] = {}

    async def run(self, task: WorkerTask, is_ending: Callable[[], bool]) -> int:
        """Run a process to its end. Returns its exit code, or minus the number of the signal that has killed it.

        Args:
            is_ending: whether the service has begun to end, so that the process has to end too.

        Raises:
            OSError: no process can be started: there is no memory, or there are too many processes or open files.
        """
        self.is_ready, self._reload_wanted, self.store_answers = False, False, True
        self._stopping_at = self._late_signal = None
        ours, theirs = trio.socket.socketpair()
        self._idle = trio.Event()
        self.starts += 1
        self._alive_at = trio.current_time()
        channel = self._channel = Channel(trio.SocketStream(ours))
        try:
            with theirs:
                self._process = await trio.lowlevel.open_process(
                    self._command,
                    stdin=theirs.fileno(),
                    env=_environment(os.environ),
                    start_new_session=True,  # signals of the terminal are for the parent, which passes them on
                )
            channel.send(Task(pickle.dumps(task)))
            if is_ending():
                self.send_signal(signal.SIGTERM)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.write)
                nursery.start_soon(self._listen, channel, nursery)
                code = await self._process.wait()
                nursery.cancel_scope.cancel()
            return code
        finally:
            if self._process is not None and self.kill():
                with trio.CancelScope(shield=True):
                    await self._process.wait()
            self._process = self._channel = None
            self._reloaded.set()
            for answered, _ in self._asked.values():
                answered.set()
            self._idle.set()
            with trio.CancelScope(shield=True):
                await channel.aclose()

    async def pause(self, seconds: float) -> bool:
        """Wait before the next start. Returns `False` if the service ends meanwhile, which ends the pause."""
        self._pausing = trio.Event()
        try:
            with trio.move_on_after(seconds):
                await self._pausing.wait()
            return not self._pausing.is_set()
        finally:
            self._pausing = None

    async def wait_idle(self) -> None:
        """Wait until no process runs."""
        await self._idle.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal that asks the process to end. A pause between two processes ends too."""
        if self._pausing is not None:
            self._pausing.set()
        if self.is_ready:
            self._send(number)
            return
        # A process that does not receive signals yet ends by SIGTERM without a traceback. One that does takes it for a
        # wish to drain, and is told when it is ready that there is no time for that.
        self._send(signal.SIGTERM)
        if number != signal.SIGTERM:
            self._late_signal = number

    def kill(self) -> bool:
        """Kill the process. Returns `False` if none runs."""
        return self._send(signal.SIGKILL)

    def _send(self, number: int) -> bool:
        if self._process is None or self._process.returncode is not None:
            return False
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        return True

    async def reload(self) -> None:
        """Have the worker read its certificate again, and wait until it has. One that is starting does so when it has
        started.
        """
        if not self.is_ready:
            self._reload_wanted = True
            return
        self._reloaded = trio.Event()
        self._send(signal.SIGHUP)
        await self._reloaded.wait()

    def ready_for(self) -> float:
        """Return the seconds for which the process accepts connections; 0 if it does not yet."""
        return trio.current_time() - self._ready_at if self.is_ready else 0.0

    def silent_for(self) -> float:
        """Return the seconds since the last sign of life. 0 for one that does not run, or is going down."""
        is_silent = self._process is not None and self._stopping_at is None
        return trio.current_time() - self._alive_at if is_silent else 0.0

    def stopping_for(self) -> float:
        """Return the seconds for which the process goes down; 0 if it does not, or has ended."""
        is_stopping = self._process is not None and self._stopping_at is not None
        return trio.current_time() - (self._stopping_at or 0.0) if is_stopping else 0.0

    async def get_metrics(self) -> bytes | None:
        """Return the packed metrics; `None` if the worker does not accept connections, or ends."""
        if self._channel is None or not self.is_ready:
            return None
        self._next_id += 1
        id, found = self._next_id, list[bytes]()
        answered = trio.Event()
        self._asked[id] = answered, found
        try:
            self._channel.send(GetMetrics(id))
            await answered.wait()
        finally:
            del self._asked[id]
        return found[0] if found else None

    def send_all_metrics(self, packed: dict[str, bytes], starts: dict[str, int]) -> None:
        """Send the metrics of all workers to this one."""
        if self._channel is not None:
            self._channel.send(AllMetrics(packed, starts))

    async def _listen(self, channel: Channel, nursery: trio.Nursery) -> None:
        while (message := await channel.receive()) is not None:
            self._alive_at = trio.current_time()
            match message:
                case Ready():
                    self._on_ready(message)
                case Alive(store_answers):
                    self.store_answers = store_answers
                case Stopping():
                    self._stopping_at = trio.current_time()
                case WantMetrics():
                    nursery.start_soon(self._on_metrics_wanted, self)
                case PackedMetrics(id, packed) if id in self._asked:
                    answered, found = self._asked[id]
                    found.append(packed)
                    answered.set()

    def _on_ready(self, message: Ready) -> None:
        if not self.is_ready:
            self._ready_at = trio.current_time()
        self.is_ready = True
        self.place = message
        self.was_ready.set()
        self._reloaded.set()
        if self._reload_wanted:
            self._reload_wanted = False
            self._send(signal.SIGHUP)
        if self._late_signal is not None:
            self._send(self._late_signal)
            self._late_signal = None


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker: its settings come from the parent, which alone knows the service manager."""
    ours = ("MDASH_", "NOTIFY_SOCKET", "WATCHDOG_")
    return {name: value for name, value in variables.items() if not name.startswith(ours)}
