"""Drives one update: its calls go out, and what happens meanwhile is taken at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import attrs
import trio

from mdashcore import ota
from mdashcore._errors import Busy, NotFound, StorageError, VersionConflict
from mdashcore.hub import DeviceCaller
from mdashcore.hub.updates.performer import CallStep, UpdatePerformer
from mdashcore.ota import Update
from mdashcore.trio.background import Background

__all__ = ["MAX_EVENTS", "UpdateDriver"]

T = TypeVar("T")

MAX_EVENTS: Final = 64  # not yet taken by a driver: reports come once in seconds, a driver takes them at once

NO_IMAGE: Final = -1
"""The code of the error that a call ends with where the store has lost the image, or a part of it."""


@attrs.define(eq=False)
class _Call:
    """A call on its way to the device."""

    step: CallStep
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    done: bool = False
    outcome: ota.Event | None = None
    """`None`: it was given up."""


class UpdateDriver:
    """One update with what its task waits for.

    Args:
        background: tries again what the storage fails to do.
        is_here: whether the device is connected to this node.
        said: what the device has said of itself on its present link; None: nothing.
        on_news: called when the update may have changed.
    """

    def __init__(
        self,
        run: UpdatePerformer,
        caller: DeviceCaller,
        background: Background,
        *,
        is_here: Callable[[], bool],
        said: Callable[[], ota.Build | None],
        on_news: Callable[[], None],
    ) -> None:
        self._run = run
        self._caller = caller
        self._background = background
        self._is_here = is_here
        self._said = said
        self._on_news = on_news
        self._events: deque[ota.Event] = deque(maxlen=MAX_EVENTS)
        self._calls: deque[_Call] = deque()
        self._wakeup = trio.Event()
        self._stale = False
        self._clock_was_set = False
        self._released = False
        self.replaced: bool = False
        """Whether the store had another update, or none any more, when it was looked at last."""

    @property
    def update(self) -> Update:
        """How it stands."""
        return self._run.update

    def tell(self, *events: ota.Event) -> None:
        """These have happened."""
        self._events.extend(events)
        self._wakeup.set()

    def look(self) -> None:
        """Somebody else may have changed the update: read it again."""
        self._stale = True
        self._wakeup.set()

    def follow_clock(self) -> None:
        """The wall clock was set: have the update's times be of it again."""
        self._clock_was_set = True
        self._wakeup.set()

    def release(self) -> None:
        """Drive it no more."""
        self._released = True
        self._wakeup.set()

    async def drive(self) -> None:
        """Move the update on until it has ended, or somebody else has the word."""
        async with trio.open_nursery() as nursery:
            await self._persist(self._run.tell)  # what was stored before this driver began
            while not self._released and not self.update.ended:
                await self._turn(nursery)
            nursery.cancel_scope.cancel()

    async def _turn(self, nursery: trio.Nursery) -> None:
        self._wakeup = trio.Event()
        if self._stale:
            self._stale = False
            await self._look()
        elif self._clock_was_set:
            self._clock_was_set = False
            await self._apply(None)
        elif self._events:
            await self._take(self._events.popleft())
        elif self._calls and self._calls[0].done:
            await self._land(self._calls.popleft())
        elif not await self._launch(nursery):
            await self._pause()

    # What happens

    async def _take(self, event: ota.Event) -> None:
        """Something happened that is not the end of a call."""
        if isinstance(event, ota.DeviceConnected | ota.DeviceDisconnected):
            self._abandon()  # the calls were made on the link before
        await self._apply(event)
        self._review()

    async def _land(self, call: _Call) -> None:
        """The oldest call is over."""
        if call.outcome is not None:
            await self._apply(call.outcome)
        if isinstance(call.outcome, ota.ChunkAccepted):
            self._review()
        else:
            self._abandon()

    async def _apply(self, event: ota.Event | None) -> None:
        """Take an event; `None`: nothing but a step of the wall clock."""
        while not self._released:
            try:
                await self._persist(self._run.follow_clock if event is None else lambda: self._run.apply(event))
            except VersionConflict:
                if await self._look():
                    continue
            break
        self._on_news()

    async def _look(self) -> bool:
        """Read the update again. False: what was about to be told to it is not to be told any more."""
        try:
            changed = await self._persist(self._run.reload)
        except NotFound:
            self.replaced = True
            self.release()
            return False
        if not changed:
            return True
        self._on_news()
        if self.update.ended:
            await self._persist(self._run.settle)  # whoever ended it may have been stopped before that
            return False
        if not self._is_here():
            self.release()  # who holds the device goes on
            return False
        self._review()
        if self.update.connected:
            return True
        self._events.appendleft(ota.DeviceConnected())
        return False

    async def _persist(self, function: Callable[[], Awaitable[T]]) -> T | None:
        """Call a function until the storage lets it succeed. Returns its result; `None` once the driver is released."""

        async def attempt() -> T | None:
            return None if self._released else await function()

        return await self._background.persist(attempt, on=(StorageError, Busy), what="an update")

    # What is done

    async def _launch(self, nursery: trio.Nursery) -> bool:
        """Make the next call; False if there is none to be made now."""
        in_flight = [call.step for call in self._calls]
        sizes = [step.size for step in in_flight if isinstance(step, ota.Write)]
        if len(sizes) < len(in_flight):
            return False  # only chunks go side by side
        step = ota.next_step(self.update, in_flight=sum(sizes))
        if step is None or isinstance(step, ota.Wait) or (sizes and not isinstance(step, ota.Write)):
            return False
        call = _Call(step)
        try:
            params = await self._persist(lambda: self._run.params(step))
        except NotFound as exc:
            self._calls.append(_Call(step, done=True, outcome=ota.CallFailed(step.method, NO_IMAGE, str(exc))))
            return True
        if self._released:
            return True
        self._calls.append(call)
        await nursery.start(self._perform, call, params)
        return True

    async def _perform(
        self, call: _Call, params: bytes | None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()  # and without a pause to the call: chunks go out in the order of their start
        with call.scope:
            # `Busy`: too many call the device just now
            call.outcome = await self._persist(lambda: self._run.perform(call.step, params, self._caller, self._said()))
        call.done = True
        self._wakeup.set()

    def _review(self) -> None:
        """Keep the calls only while they are what the update needs."""
        if self._calls and ota.next_step(self.update) != self._calls[0].step:
            self._abandon()

    def _abandon(self) -> None:
        """Nobody waits for the calls any more."""
        for call in self._calls:
            call.scope.cancel()
        self._calls.clear()

    async def _pause(self) -> None:
        """Until something happens, or it is time for something."""
        left = (ota.next_deadline(self.update) or 0.0) - self._run.now()
        with trio.move_on_after(max(left, 0.0)) as timer:
            await self._wakeup.wait()
        if timer.cancelled_caught:
            await self._take(ota.DeadlinePassed())
