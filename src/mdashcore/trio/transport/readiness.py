"""What comes in on a stream: given to who waits for it, or at once to a function, without waking a task.

Most of what a small message costs under Trio is the way from the socket to the task that waits for it: a system call
to ask for the event anew, and the task's turn. So where the system has epoll, one task of the run reads from all
sockets and calls functions: 13 us for a message there and back through two sockets, in place of 42 us.
"""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from math import inf
from time import perf_counter
from typing import Any, Final, TypeVar

import trio

from mdashcore.trio.turns import SLICE

__all__ = ["Inflow", "run_now"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_EVENTS: Final = 16  # sockets that are read from before everybody else has a turn

MAX_TURN: Final = 2 * SLICE  # seconds in which functions take what comes in a turn, and a slice for each owner: what is
# left then is for the tasks. A message of each of those sockets takes 1 ms


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing to its end, without a task."""
    try:
        trap = coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    if (abort := getattr(trap, "abort_func", None)) is not None:
        abort(_never)  # what it waits for must not wake the task in whose name it was run
    coroutine.close()
    raise RuntimeError("a store that claims to be instant waits")


def _never() -> None:
    """What Trio gives to who stops waiting, to be called where that takes a while: here nobody is left by then."""


class _Poller:
    """Calls a function for each socket that has something to be read; a task of the run's own."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[], None]] = {}
        self._spent: dict[Hashable, float] = {}  # seconds of this turn, by owner
        self._clock = self._end = 0.0  # the last look at it, and when this turn has lasted long enough
        self.stop = 0.0
        """When the function that takes data now is to leave the rest, on the clock of `time.perf_counter`."""
        self.at_end: list[Callable[[], None]] | None = None
        """What is called when all sockets of this turn were read from; None between two turns."""

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._ready[fd] = ready

    def hold(self, fd: int, ready: Callable[[], None], hold: bool) -> None:
        if self._ready.get(fd) != ready:  # its number has been given to another socket
            return
        with suppress(OSError, ValueError):  # closed already
            if hold:  # not by watching for nothing: a connection that is over would be told of all the same
                self._epoll.unregister(fd)
            else:
                self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int, ready: Callable[[], None]) -> None:
        if self._ready.get(fd) == ready:
            del self._ready[fd]
            with suppress(OSError, ValueError):  # held, or closed already
                self._epoll.unregister(fd)

    def take(self, owner: Hashable, function: Callable[[bytes], bytes | None], data: bytes) -> bytes | None:
        """Have a function take data, if its owner still has time in this turn; else all of it is left."""
        started, spent = self._clock, self._spent.get(owner, 0.0)
        if spent >= SLICE or started >= self._end:
            return data
        self.stop = started + SLICE - spent
        try:
            return function(data)
        finally:
            self._clock = now = perf_counter()
            self._spent[owner] = spent + now - started

    async def run(self) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.at_end = []
                self._spent.clear()
                self._clock = perf_counter()
                self._end = self._clock + MAX_TURN
                for fd, _ in self._epoll.poll(0, MAX_EVENTS):
                    if (ready := self._ready.get(fd)) is not None:  # the one before may have closed it
                        ready()
                at_end, self.at_end = self.at_end, None
                for function in at_end:
                    try:
                        function()
                    except Exception:  # a defect that one connection meets must not end the run
                        _log.exception("the end of a turn failed")
        finally:
            self._epoll.close()


_current: trio.lowlevel.RunVar[_Poller | None] = trio.lowlevel.RunVar("mdash_poller", default=None)


def _poller() -> _Poller:
    """The run's own; made when it is first asked for."""
    poller = _current.get()
    if poller is None:
        poller = _Poller()
        _current.set(poller)
        trio.lowlevel.spawn_system_task(poller.run)
    return poller


class Inflow:
    """The bytes of one stream.

    Args:
        size: bytes read at once, and about as many as are kept for who does not ask for them.
    """

    __slots__ = (
        "_data",
        "_ended",
        "_failure",
        "_fd",
        "_held",
        "_poller",
        "_size",
        "_stream",
        "_task",
        "_woken",
        "owner",
        "take",
    )

    def __init__(self, stream: trio.abc.Stream, size: int) -> None:
        self.take: Callable[[bytes], bytes | None] | None = None
        """Given what comes while somebody waits in `receive`, but for the end, where the system has epoll.

        It returns what `receive` is to return, which may be nothing; or None, and nobody is woken. What it raises is
        raised by `receive`.
        """
        self.owner: Hashable = None
        """Whose work it is to take what comes; `None` for a stranger's. All streams of an owner share one turn."""
        self._stream: Any = stream
        self._size = size
        self._data = b""
        self._ended = False
        self._held = False
        self._woken = False  # for nothing: the end, if it has come meanwhile, is for the next time
        self._failure: Exception | None = None
        self._task: trio.lowlevel.Task | None = None
        self._poller: _Poller | None = None
        if isinstance(stream, trio.SocketStream) and hasattr(select, "epoll"):
            self._fd = stream.socket.fileno()
            try:
                poller = _poller()
                poller.watch(self._fd, self._read)
                self._poller = poller
            except OSError as exc:
                if exc.errno not in (errno.ENOSPC, errno.ENOMEM):
                    raise
                _log.warning("a connection is served by its task alone: %s", exc)

    @property
    def wakeable(self) -> bool:
        """Whether `wake` works."""
        return self._poller is not None

    async def receive(self) -> bytes | None:
        """What has come; None once the stream has ended, in whatever way."""
        if self._poller is None:
            try:
                return bytes(await self._stream.receive_some(self._size)) or None
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
        if not self._data and not self._ended:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        else:
            await trio.lowlevel.checkpoint()
        data, self._data = self._data, b""
        if self._held:
            self._hold(False)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        woken, self._woken = self._woken, False
        return data if data or woken or not self._ended else None

    def at_end_of_turn(self, function: Callable[[], None]) -> bool:
        """Call a function when all that has come now, on any stream, was taken; False where nothing is being taken.

        What is sent then goes in one piece, though it belongs to many messages. The function must not raise.
        """
        if self._poller is None or self._poller.at_end is None:
            return False
        self._poller.at_end.append(function)
        return True

    @property
    def stop(self) -> float:
        """For the function `take`: when it is to leave the rest, on the clock of `time.perf_counter`."""
        return self._poller.stop if self._poller is not None else inf

    def wake(self) -> None:
        """Have who waits in `receive` get nothing, and look around."""
        if self._task is not None:
            self._woken = True
            self._resume()

    def close(self) -> bytes:
        """Stop reading, before others read from the stream, or it is closed; what came and was not received."""
        self._forget()
        self.take = None  # mostly a method of who has this: a circle, and the collector is called seldom
        data, self._data = self._data, b""
        return data

    def _hold(self, hold: bool) -> None:
        self._held = hold
        if self._poller is not None and self._stream.socket.fileno() == self._fd:  # else others have closed it
            self._poller.hold(self._fd, self._read, hold)

    def _forget(self) -> None:
        if self._poller is not None:
            self._poller.forget(self._fd, self._read)

    def _resume(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _read(self) -> None:
        try:
            data = os.read(self._fd, self._size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended = True
            self._forget()
        elif self.take is not None and self._task is not None and self._poller is not None:
            try:
                left = self._poller.take(self.owner, self.take, data)
                if left is None:
                    return
                data, self._woken = left, True
            except Exception as exc:
                self._failure = exc
        self._data += data
        if len(self._data) >= self._size:
            self._hold(True)
        self._resume()
