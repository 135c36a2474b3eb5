"""The background work of a node: tasks that outlive their caller, and work that is tried until it succeeds.

All retries go through this module. A failure opens an outage, which is logged once. Its end is logged once too, when
all work that failed in the meantime has succeeded. All failures of the storage are one outage.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

import attrs
import trio

from mdashcore._backoff import Backoff
from mdashcore._errors import Damaged, MdashError, StorageError, VersionConflict
from mdashcore.storage import MessageBus, goes_on

__all__ = ["DEFECT_BACKOFF", "STORAGE_BACKOFF", "Background", "Backoff", "Retry"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

STABLE_TIME: Final = 10.0  # seconds that a task without an end has to run before its last failure counts as over

STORAGE_NAME: Final = "the storage"


FIRST_DELAY: Final = 1.0  # seconds until the storage is tried again, doubled after each failure

MAX_DELAY: Final = 4.0  # seconds: all work has to succeed 5 seconds after the storage is back

STORAGE_BACKOFF: Final = Backoff(first=FIRST_DELAY, most=MAX_DELAY)

DEFECT_BACKOFF: Final = Backoff()

_Cause: TypeAlias = tuple[str, type[BaseException]]
"""The work that failed, and the type of its error: an unreadable document does not hide a store that is away."""


@attrs.define(eq=False)
class _Outage:
    """A failure that lasts."""

    since: float
    """Start of the outage, by Trio's clock."""
    waiting: int = 0
    """Number of retries that wait for its end."""


class Retry:
    """One piece of work that is tried until it succeeds. Made by `Background.retry`.

    As a context manager it calls `give_up` at the end.
    """

    def __init__(self, outages: dict[_Cause, _Outage], what: str, backoff: Backoff) -> None:
        self._outages = outages
        self._what = what
        self._backoff = backoff
        self._failures = 0
        self._cause: _Cause | None = None

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        return self._cause is not None

    def failed(self, error: Exception) -> float:
        """Count a failed try. Returns the seconds to wait before the next one."""
        self._failures += 1
        if self._cause is None:
            self._cause = self._join(error)
        backoff = STORAGE_BACKOFF if isinstance(error, StorageError) else self._backoff
        return backoff.delay(self._failures)

    def succeeded(self) -> None:
        """Count a successful try. The last retry of an outage that succeeds ends it."""
        self._leave(over=True)

    def give_up(self) -> None:
        """Leave the outage, because the work is not tried any more."""
        self._leave(over=False)

    def __enter__(self) -> Retry:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.give_up()

    def _join(self, error: Exception) -> _Cause:
        what = STORAGE_NAME if isinstance(error, StorageError) else self._what
        cause = what, type(error)
        outage = self._outages.get(cause)
        if outage is None:
            outage = self._outages[cause] = _Outage(trio.current_time())
            if isinstance(error, MdashError):
                _log.warning("%s failed, waiting until it works: %s", what, error)
            else:  # a defect of this program
                _log.error("%s failed, waiting until it works", what, exc_info=error)
        outage.waiting += 1
        return cause

    def _leave(self, *, over: bool) -> None:
        self._failures = 0
        if self._cause is None:
            return
        outage = self._outages[self._cause]
        outage.waiting -= 1
        if not outage.waiting:
            del self._outages[self._cause]
            if over:
                _log.warning(
                    "%s works again after %.0f s, going on", self._cause[0], trio.current_time() - outage.since
                )
        self._cause = None


class Background:
    """The background tasks of a node.

    Args:
        nursery: runs them.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._outages: dict[_Cause, _Outage] = {}
        self._ended = False

    def spawn(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run a task that no caller waits for. Its errors are logged, and end no other task.

        Does nothing after `end`.
        """
        if not self._ended:
            self._nursery.start_soon(self._guarded, function)

    def end(self) -> None:
        """Start no more tasks. The next node that starts does the rest of their work."""
        self._ended = True

    def run_for_ever(self, what: str, function: Callable[[], Awaitable[object]]) -> None:
        """Run a task that has no end. If it fails, this is logged, and the task begins again.

        Args:
            what: the name of the work in the log.
        """
        self._nursery.start_soon(self._for_ever, what, function)

    def run_every(
        self, seconds: float, what: str, function: Callable[[], Awaitable[object]], *, again_soon: bool = True
    ) -> None:
        """Run a task again and again, with a pause of that many seconds.

        Args:
            what: the name of the work in the log.
            again_soon: whether the pause after a failure is shorter.
        """
        self._nursery.start_soon(self._every, seconds, what, function, again_soon)

    def retry(self, what: str = STORAGE_NAME, backoff: Backoff = DEFECT_BACKOFF) -> Retry:
        """Return a `Retry` for work that its caller tries again.

        Args:
            what: the name of the work in the log; a `StorageError` is logged as the storage's.
            backoff: the waits after errors other than those of the storage.
        """
        return Retry(self._outages, what, backoff)

    async def persist(
        self,
        function: Callable[[], Awaitable[T]],
        *,
        on: tuple[type[MdashError], ...] = (StorageError,),
        what: str = STORAGE_NAME,
    ) -> T:
        """Call a function until it does not raise one of the errors `on`. Returns its result.

        `VersionConflict` and `Damaged` are answers of the storage, not failures, and are raised: the same call would
        get the same answer again.
        """
        with self.retry(what) as retry:
            while True:
                try:
                    result = await function()
                except (VersionConflict, Damaged):
                    retry.succeeded()
                    raise
                except on as exc:
                    await trio.sleep(retry.failed(exc))
                else:
                    retry.succeeded()
                    return result

    async def listen(
        self, bus: MessageBus, topic: str, receive: Callable[[bytes], None], *, on_subscribed: Callable[[], None]
    ) -> None:
        """Receive the messages of a topic, for ever.

        A message for which `receive` raises is logged and skipped: a node of another version may have sent it.

        Args:
            on_subscribed: called whenever a subscription begins, or goes on after a gap. Messages from before that, or
                since a failure, were missed.
        """
        with self.retry() as retry:
            while True:
                try:
                    async with bus.subscribe(topic) as messages:
                        await self._receive(topic, messages, receive, retry, on_subscribed)
                except StorageError as exc:
                    await trio.sleep(retry.failed(exc))
                else:
                    await trio.sleep(STORAGE_BACKOFF.delay(1))  # the bus has ended the subscription

    async def _receive(
        self,
        topic: str,
        messages: AsyncIterator[bytes],
        receive: Callable[[bytes], None],
        retry: Retry,
        on_subscribed: Callable[[], None],
    ) -> None:
        """Receive the messages of a subscription until it ends."""
        while True:
            retry.succeeded()
            on_subscribed()
            try:
                async for message in messages:
                    try:
                        receive(message)
                    except Exception:
                        _log.exception("a message on %s is not understood", topic)
                return
            except StorageError as exc:
                if not goes_on(messages):
                    raise
                await trio.sleep(retry.failed(exc))

    async def _guarded(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except MdashError as exc:
            _log.error("a background task failed: %s", exc)
        except Exception:
            _log.exception("a background task failed")

    async def _for_ever(self, what: str, function: Callable[[], Awaitable[object]]) -> None:
        retry = self.retry(what)
        while True:
            stable = trio.CancelScope()
            if retry.failing:
                self._nursery.start_soon(_end_outage_when_stable, retry, stable)
            try:
                await function()
            except Exception as exc:
                delay = retry.failed(exc)
            else:
                delay = DEFECT_BACKOFF.delay(1)
            stable.cancel()
            await trio.sleep(delay)

    async def _every(
        self, seconds: float, what: str, function: Callable[[], Awaitable[object]], again_soon: bool
    ) -> None:
        retry = self.retry(what)
        while True:
            try:
                await function()
            except Exception as exc:
                delay = retry.failed(exc)
                if not again_soon:
                    retry.give_up()  # other work notices earlier than the next try whether the outage is over
                await trio.sleep(min(delay, seconds) if again_soon else seconds)
            else:
                retry.succeeded()
                await trio.sleep(seconds)


async def _end_outage_when_stable(retry: Retry, scope: trio.CancelScope) -> None:
    """End the outage of a task that has run for a while."""
    with scope:
        await trio.sleep(STABLE_TIME)
        retry.succeeded()
