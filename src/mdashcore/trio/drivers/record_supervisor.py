"""A supervisor of all records of a kind that this node drives, woken by notifications and by time.

The records of one account have a step after the other, in one task. Accounts are side by side: a step may wait for
what belongs to its account, such as a shadow that others write, and that delays no other account.

If several nodes share a store, one of them drives a record: the node on which it was created. When that node is gone,
one of the others takes it over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import ClassVar, Final, Generic, Protocol, TypeAlias, TypeVar

import attrs
import trio

from mdashcore._errors import Conflict, NotFound
from mdashcore.trio.background import Background, Retry

__all__ = ["RecordDriver", "RecordSupervisor", "WorkKey"]

REFRESH_INTERVAL: Final = 60.0  # seconds between two reads of everything: for messages that the bus has lost, as it may

STEP_PAUSE: Final = 0.05  # seconds between two steps of an account whose work is due immediately: others have a turn

MAX_DRIVEN_ACCOUNTS: Final = 32  # accounts with a step at the same time: of jobs, that is 512 writes in the store

WorkKey: TypeAlias = tuple[str, str]
"""The account, and the id of the record."""


class RecordDriver(Protocol):
    """One record that is driven, with its next step."""

    retry: Retry
    due: float
    """Time of the next step without any event, by Trio's clock, which a step of the wall clock does not move."""
    reload: bool
    """Whether the record is to be read again in the next step."""

    @property
    def gone(self) -> bool:
        """Whether nothing is left to drive."""

    def is_due(self, now: float) -> bool:
        """Return whether a step is due at `now`, by Trio's clock."""

    async def step(self) -> None:
        """Take the record one step further, and set `due`."""

    def close(self) -> None:
        """End what the driver has opened."""


@attrs.define(eq=False)
class _New:
    """A record that is to be loaded."""

    retry: Retry
    due: float = 0.0
    """Time of the next try, by Trio's clock."""


D = TypeVar("D", bound=RecordDriver)


class RecordSupervisor(ABC, Generic[D]):
    """The records of one kind that this node drives. A failed one is retried, and delays no other.

    At most `MAX_DRIVEN_ACCOUNTS` accounts have a step at the same time. The others wait for their turn, in order.
    """

    what: ClassVar[str]
    """The name of the work in the log."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._driven: dict[WorkKey, D] = {}
        self._new: dict[WorkKey, _New] = {}
        self._refreshing = self._retry()
        self._accounts: set[str] = set()
        """Those that have a step, or wait for their turn."""
        self._turns = trio.CapacityLimiter(MAX_DRIVEN_ACCOUNTS)  # fair: the first that waits is the next
        self._wakeup = trio.Event()
        self._refresh_at = 0.0

    @abstractmethod
    async def _unfinished(self) -> list[WorkKey]:
        """Return the records that have not ended, and that no other living node drives."""

    @abstractmethod
    async def _open(self, key: WorkKey) -> D:
        """Load a record. Raises `NotFound` if it has ended, `Conflict` if another node drives it."""

    async def run(self) -> None:
        """Drive the records, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wakeup = trio.Event()
                due = await self._round(nursery)
                with trio.move_on_at(max(due, trio.current_time() + STEP_PAUSE)):
                    await self._wakeup.wait()

    def take_over(self) -> None:
        """Look for records that a node which is gone has left."""
        self._refresh_at = 0.0
        self._wakeup.set()

    # For subclasses

    def _on_changed(self, key: WorkKey) -> None:
        """Read a record again, or begin to drive it, because it was changed or created."""
        if (driven := self._driven.get(key)) is not None:
            driven.reload = True
        else:
            self._load_soon(key)
        self._wakeup.set()

    def _on_refresh(self, driver: D) -> None:
        """Have a driver read everything again in its next step."""

    def _on_loaded(self, key: WorkKey, driver: D) -> None:
        """Handle that a record is driven from now on."""

    def _on_dropped(self, key: WorkKey, driver: D) -> None:
        """Handle that a record is not driven any more."""

    def _retry(self) -> Retry:
        return self._background.retry(self.what)

    # Internals

    async def _round(self, nursery: trio.Nursery) -> float:
        """Load what is new, and begin the steps that are due. Returns the time of the next round."""
        now = trio.current_time()
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_INTERVAL
            if (delay := await _try(self._refreshing, self._refresh)) is not None:
                self._refresh_at = now + delay
        for key, new in [(key, new) for key, new in self._new.items() if new.due <= now]:
            del self._new[key]  # first: notifications that come from now on count
            if (delay := await _try(new.retry, partial(self._load, key))) is not None:
                new.due = now + delay
                self._new[key] = new
        due: dict[str, list[WorkKey]] = {}
        times = [self._refresh_at, *(new.due for new in self._new.values())]
        for key, driven in self._driven.items():
            if key[0] in self._accounts:
                continue  # it wakes this task when its steps are done
            if driven.is_due(now):
                due.setdefault(key[0], []).append(key)
            else:
                times.append(driven.due)
        for account, keys in due.items():
            self._accounts.add(account)
            nursery.start_soon(self._step, account, keys)
        return min(times)

    async def _step(self, account: str, keys: list[WorkKey]) -> None:
        """Take some records of an account one step further, one after the other."""
        try:
            async with self._turns:
                for key in keys:
                    driven = self._driven[key]
                    if (delay := await _try(driven.retry, driven.step)) is not None:
                        driven.due = trio.current_time() + delay
                    if driven.gone:
                        self._drop(key)
                    await trio.lowlevel.checkpoint()
            pause = trio.current_time() + STEP_PAUSE
            for driven in filter(None, map(self._driven.get, keys)):
                driven.due = max(driven.due, pause)
        finally:
            self._accounts.discard(account)
            self._wakeup.set()

    async def _refresh(self) -> None:
        """Load the records that are not driven yet, and read all others again."""
        for driven in self._driven.values():
            self._on_refresh(driven)
        for key in await self._unfinished():
            if key not in self._driven:
                self._load_soon(key)

    async def _load(self, key: WorkKey) -> None:
        try:
            driver = await self._open(key)
        except (NotFound, Conflict):
            return
        driver.reload = self._new.pop(key, None) is not None
        self._driven[key] = driver
        self._on_loaded(key, driver)

    def _drop(self, key: WorkKey) -> None:
        driven = self._driven.pop(key)
        driven.retry.give_up()
        driven.close()
        self._on_dropped(key, driven)

    def _load_soon(self, key: WorkKey) -> None:
        """Load a record in the next round."""
        self._new.setdefault(key, _New(self._retry())).due = 0.0


async def _try(retry: Retry, function: Callable[[], Awaitable[None]]) -> float | None:
    """Call a function. Returns the seconds after which it has to be called again, `None` if it succeeded."""
    try:
        await function()
    except Exception as exc:  # a defect in one record must not stop the others
        return retry.failed(exc)
    retry.succeeded()
    return None
