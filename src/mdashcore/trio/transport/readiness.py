"""The incoming bytes of a stream: passed to the task that waits for them, or directly to a function without a task.

Under Trio, most of the cost of a small message is the way from the socket to the task that waits for it: a system call
to wait for the event again, and the task's turn. So if the system has epoll, one task of the run reads from all sockets
and calls functions. A message there and back through two sockets then takes 13 us instead of 42 us.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import ssl
from collections.abc import Callable, Hashable
from contextlib import suppress
from math import inf
from time import perf_counter
from typing import Any, Final

import trio

from mdashcore.trio.run_wide import RunWide
from mdashcore.trio.turns import WORK_SLICE

__all__ = ["Inflow"]

_log = logging.getLogger(__name__)

MAX_RECORDS: Final = 16  # TLS records that are read together: 0.1 ms of work, as for the first one

MAX_READY_SOCKETS: Final = 16  # sockets of each kind that are read from before other tasks run

MAX_TURN: Final = 2 * WORK_SLICE  # seconds of one turn for functions, with a slice for each owner; tasks do the rest.
# A message of each of those sockets takes 1 ms


class _Poller:
    """Calls a function for each readable socket, in a system task of the run.

    Those of requests come first. A fleet that leaves or reports in the same moment makes thousands of others readable,
    and a request waits for no more than a few of them.
    """

    def __init__(self) -> None:
        self._requests, self._others = select.epoll(), select.epoll()
        self._epoll = select.epoll()  # of these two: readable if one of their sockets is
        for part in (self._requests, self._others):
            self._epoll.register(part.fileno(), select.EPOLLIN)
        self._late: set[int] = set()
        """The sockets in `_others`."""
        self._ready: dict[int, Callable[[], None]] = {}
        self._spent: dict[Hashable, float] = {}  # seconds in this turn, by owner
        self._clock = self._end = 0.0  # last read time, and the time at which this turn ends
        self.stop = 0.0
        """Time at which the running function has to leave the rest, on the clock of `time.perf_counter`."""
        self.at_end: list[Callable[[], None]] | None = None
        """Functions to call at the end of this turn, or `None` between two turns."""
        self._later: list[Callable[[], None]] = []  # functions that tasks have left, to be called after all of them
        self._caller: trio.lowlevel.Task | None = None  # the task that calls those, while it waits for some
        self.ending = False
        """Whether such functions are being called now. What they leave undone is not done in the same way."""

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self._late.discard(fd)  # the number may have been that of a socket that was closed without a word
        self._requests.register(fd, select.EPOLLIN)
        self._ready[fd] = ready

    def delay(self, fd: int, ready: Callable[[], None]) -> None:
        if self._ready.get(fd) == ready and fd not in self._late:
            self._late.add(fd)
            with suppress(OSError, ValueError):  # held, or closed already
                self._requests.unregister(fd)
                self._others.register(fd, select.EPOLLIN)

    def _epoll_of(self, fd: int) -> select.epoll:
        return self._others if fd in self._late else self._requests

    def hold(self, fd: int, ready: Callable[[], None], hold: bool) -> None:
        if self._ready.get(fd) != ready:  # the number was given to another socket
            return
        with suppress(OSError, ValueError):  # closed already
            if hold:  # an empty event mask would not do: epoll still reports the end of a connection
                self._epoll_of(fd).unregister(fd)
            else:
                self._epoll_of(fd).register(fd, select.EPOLLIN)

    def forget(self, fd: int, ready: Callable[[], None]) -> None:
        if self._ready.get(fd) == ready:
            del self._ready[fd]
            with suppress(OSError, ValueError):  # held, or closed already
                self._epoll_of(fd).unregister(fd)
            self._late.discard(fd)

    def call_in_turn(self, owner: Hashable, function: Callable[[bytes], bytes | None], data: bytes) -> bytes | None:
        """Call a function with data if the owner has time left in this turn; else return the data."""
        started, spent = self._clock, self._spent.get(owner, 0.0)
        if spent >= WORK_SLICE or started >= self._end:
            return data
        self.stop = started + WORK_SLICE - spent
        try:
            return function(data)
        finally:
            self._clock = now = perf_counter()
            self._spent[owner] = spent + now - started

    def call_after_tasks(self, function: Callable[[], None]) -> None:
        """Call a function after the tasks that run now, as at the end of a turn."""
        self._later.append(function)
        if self._caller is not None:
            caller, self._caller = self._caller, None
            trio.lowlevel.reschedule(caller)

    async def _call_later(self) -> None:
        while True:
            if not self._later:
                self._caller = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
            later, self._later = self._later, []
            self._call_all(later)

    def _stop_waiting(self, _: object) -> trio.lowlevel.Abort:
        self._caller = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def run(self) -> None:
        trio.lowlevel.spawn_system_task(self._call_later)
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.at_end = []
                self._spent.clear()
                self._clock = perf_counter()
                self._end = self._clock + MAX_TURN
                for part in (self._requests, self._others):
                    for fd, _ in part.poll(0, MAX_READY_SOCKETS):
                        if (ready := self._ready.get(fd)) is not None:  # an earlier function may have closed it
                            ready()
                at_end, self.at_end = self.at_end, None
                self._call_all(at_end)
        finally:
            for epoll in (self._epoll, self._requests, self._others):
                epoll.close()

    def _call_all(self, functions: list[Callable[[], None]]) -> None:
        self.ending = True
        for function in functions:
            try:
                function()
            except Exception:  # a defect in one connection must not end the run
                _log.exception("the end of a turn failed")
        self.ending = False


_poller: Final = RunWide("mdash_poller", _Poller, _Poller.run)


class Inflow:
    """The incoming bytes of one stream.

    Args:
        size: bytes of one read; about as many are kept until `receive` is called.
    """

    __slots__ = (
        "_data",
        "_ended",
        "_failure",
        "_fd",
        "_held",
        "_is_new",
        "_poller",
        "_size",
        "_stream",
        "_task",
        "_woken",
        "on_data",
        "owner",
    )

    def __init__(self, stream: trio.abc.Stream, size: int) -> None:
        self.on_data: Callable[[bytes], bytes | None] | None = None
        """Called with bytes that arrive while a task waits in `receive`, if the system has epoll.

        Returns the bytes for `receive` to return, also none, or `None` to let the task wait on. `receive` raises the
        errors of the function.
        """
        self.owner: Hashable = None
        """Owner of the work that incoming bytes cause; `None` for an unauthenticated peer's.

        All streams of an owner share one turn.
        """
        self._stream: Any = stream
        self._size = size
        self._data = b""
        self._ended = False
        self._held = False
        self._is_new = True
        self._woken = False  # without bytes: if the stream has ended in the meantime, the next `receive` returns that
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
        """Whether `wake` has an effect."""
        return self._poller is not None

    @property
    def has_data(self) -> bool:
        """Whether bytes were read that `receive` has not returned yet."""
        return bool(self._data)

    async def receive(self) -> bytes | None:
        """Return the bytes that have arrived, or `None` once the stream has ended in any way."""
        if self._poller is None:
            try:
                data = bytes(await self._stream.receive_some(self._size))
                return data + _decrypted(self._stream, self._size - len(data)) if data else None
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
        if self._is_new:
            self._is_new = False
            if not self._data and not self._ended and self._stream.socket.fileno() == self._fd:
                self._read()  # a first request has come already, mostly: it does not wait behind other sockets
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
        """Call a function at the end of this turn, or between two turns after the tasks that run now.

        Returns `False` in such a function, and if the system has no epoll.

        Frames that are sent then go out in one piece, although they belong to many messages. The function must not
        raise.
        """
        if self._poller is None or self._poller.ending:
            return False
        if self._poller.at_end is None:
            self._poller.call_after_tasks(function)
        else:
            self._poller.at_end.append(function)
        return True

    @property
    def stop(self) -> float:
        """Time at which the function `on_data` has to leave the rest, on the clock of `time.perf_counter`."""
        return self._poller.stop if self._poller is not None else inf

    def wake(self) -> None:
        """Let the task that waits in `receive` return with no bytes, to check its state."""
        if self._task is not None:
            self._woken = True
            self._resume()

    def delay(self) -> None:
        """Read this stream after those of requests from now on: many of its kind may send at the same time."""
        if self._poller is not None:
            self._poller.delay(self._fd, self._read)

    def close(self) -> bytes:
        """Stop reading, before the stream is closed or read by other code. Returns the bytes that were not received."""
        self._forget()
        self.on_data = None  # mostly a method of the owner of this object: a cycle, which is collected late
        data, self._data = self._data, b""
        return data

    def _hold(self, hold: bool) -> None:
        self._held = hold
        if self._poller is not None and self._stream.socket.fileno() == self._fd:  # else the socket was closed
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
        elif self.on_data is not None and self._task is not None and self._poller is not None:
            try:
                left = self._poller.call_in_turn(self.owner, self.on_data, data)
                if left is None:
                    return
                data, self._woken = left, True
            except Exception as exc:
                self._failure = exc
        self._data += data
        if len(self._data) >= self._size:
            self._hold(True)
        self._resume()


def _decrypted(stream: Any, size: int) -> bytes:
    """Return at most so many bytes of TLS records that have come already.

    A stream with TLS returns one record at a time, for 90 us of a task's turn; here a record takes 5 us. A peer may
    send records of one byte.
    """
    tls: Any = getattr(stream, "_ssl_object", None)  # no public name leads there
    data = bytearray()
    for _ in range(MAX_RECORDS if tls is not None else 0):
        try:
            part = tls.read(size - len(data)) if len(data) < size else b""
        except ssl.SSLError:  # no whole record is left; any other error comes again with the next read
            break
        if not part:
            break
        data += part
    return bytes(data)
