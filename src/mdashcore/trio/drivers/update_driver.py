"""The driver of one update: it makes the update's calls, and applies events immediately, also during a call."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import attrs
import trio

from mdashcore import ota
from mdashcore._errors import Busy, Damaged, NotFound, StorageError, VersionConflict
from mdashcore.hub import DeviceCaller
from mdashcore.hub.updates.performer import CallStep, UpdatePerformer
from mdashcore.ota import Update
from mdashcore.trio.background import Background

__all__ = ["MAX_DRIVER_EVENTS", "UpdateDriver"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DRIVER_EVENTS: Final = 64  # that wait: reports come once in seconds, and a driver applies them immediately

NO_IMAGE: Final = -1
"""The code of the error with which a call ends if the store has lost the image, or a part of it."""


@attrs.define(eq=False)
class _Call:
    """A call on its way to the device."""

    step: CallStep
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    done: bool = False
    outcome: ota.UpdateEvent | None = None
    """The result, or `None` if the call was given up."""


class UpdateDriver:
    """One update with the events and calls that its task waits for.

    Args:
        background: retries operations after failures of the storage.
        node: the id of this node, as in the update's `driver`.
        is_connected: whether the device is connected to this node.
        reported_build: returns the build that the device has reported on its present link, or `None`.
        on_change: called when the update may have changed.
    """

    def __init__(
        self,
        performer: UpdatePerformer,
        caller: DeviceCaller,
        background: Background,
        *,
        node: str | None,
        is_connected: Callable[[], bool],
        reported_build: Callable[[], ota.Build | None],
        on_change: Callable[[], None],
    ) -> None:
        self._performer = performer
        self._caller = caller
        self._background = background
        self._node = node
        self._is_connected = is_connected
        self._reported_build = reported_build
        self._on_change = on_change
        self._events: deque[ota.UpdateEvent] = deque(maxlen=MAX_DRIVER_EVENTS)
        self._calls: deque[_Call] = deque()
        self._wakeup = trio.Event()
        self._stale = False
        self._clock_was_set = False
        self._released = False
        self.replaced: bool = False
        """Whether the last read of the store has found another update, or none any more."""
        self.lost: bool = False
        """Whether the last read of the store has found that another node drives the update."""

    @property
    def update(self) -> Update:
        """The update as it is now."""
        return self._performer.update

    def offer(self, *events: ota.UpdateEvent) -> None:
        """Queue events of the update."""
        self._events.extend(events)
        self._wakeup.set()

    def request_reload(self) -> None:
        """Read the update again, because another writer may have changed it."""
        self._stale = True
        self._wakeup.set()

    def follow_clock(self) -> None:
        """Let the update use times of the wall clock again after that was set."""
        self._clock_was_set = True
        self._wakeup.set()

    def release(self) -> None:
        """Stop driving the update."""
        self._released = True
        self._wakeup.set()

    async def drive(self) -> None:
        """Drive the update until it has ended, another driver has taken it over, or what is stored cannot be read."""
        try:
            async with trio.open_nursery() as nursery:
                await self._persist(self._performer.notify)  # a state that was stored before this driver began
                while not self._released and not self.update.ended:
                    await self._step(nursery)
                nursery.cancel_scope.cancel()
        except* Damaged as errors:
            _log.error("the update of %s cannot go on: %s", self._performer.key, errors.exceptions[0])

    async def _step(self, nursery: trio.Nursery) -> None:
        self._wakeup = trio.Event()
        if self._stale:
            self._stale = False
            await self._reload()
        elif self._clock_was_set:
            self._clock_was_set = False
            await self._apply(None)
        elif self._events:
            await self._apply_event(self._events.popleft())
        elif self._calls and self._calls[0].done:
            await self._apply_outcome(self._calls.popleft())
        elif not await self._start_call(nursery):
            await self._wait()

    # Events

    async def _apply_event(self, event: ota.UpdateEvent) -> None:
        """Apply an event that is not the end of a call."""
        if isinstance(event, ota.DeviceConnected | ota.DeviceDisconnected):
            self._abandon_calls()  # the calls were made on the earlier link
        await self._apply(event)
        self._drop_stale_calls()

    async def _apply_outcome(self, call: _Call) -> None:
        """Apply the outcome of the oldest call."""
        if call.outcome is not None:
            await self._apply(call.outcome)
        if isinstance(call.outcome, ota.ChunkAccepted):
            self._drop_stale_calls()
        else:
            self._abandon_calls()

    async def _apply(self, event: ota.UpdateEvent | None) -> None:
        """Apply an event. `None` stands for a step of the wall clock alone."""
        while not self._released:
            try:
                await self._persist(
                    self._performer.follow_clock if event is None else lambda: self._performer.apply(event)
                )
            except VersionConflict:
                if await self._reload():
                    continue
            break
        self._on_change()

    async def _reload(self) -> bool:
        """Read the update again. Returns `False` if the event that waits must not be applied any more."""
        try:
            changed = await self._persist(self._performer.reload)
        except NotFound:
            self.replaced = True
            self.release()
            return False
        if not changed:
            return True
        self._on_change()
        if self.update.ended:
            await self._persist(self._performer.archive)  # the writer that ended it may have been stopped before that
            return False
        if self._is_driven_elsewhere():
            self.lost = True
            self.release()
            return False
        self._drop_stale_calls()
        if self.update.connected == self._is_connected():
            return True
        self._events.appendleft(ota.DeviceConnected() if self._is_connected() else ota.DeviceDisconnected())
        return False

    def _is_driven_elsewhere(self) -> bool:
        """Return whether the update as it was just read is for another node to drive.

        A link to the device here says nothing about that if another node has claimed the update: the device may have
        gone to that node without a goodbye.
        """
        if self._node is None or self.update.driver is None:  # none has claimed it: the holder of the device drives it
            return not self._is_connected()
        return self.update.driver != self._node

    async def _persist(self, function: Callable[[], Awaitable[T]]) -> T | None:
        """Call a function until the storage succeeds. Returns its result, or `None` once the driver is released."""

        async def attempt() -> T | None:
            return None if self._released else await function()

        return await self._background.persist(attempt, on=(StorageError, Busy), what="an update")

    # Calls

    async def _start_call(self, nursery: trio.Nursery) -> bool:
        """Make the next call. Returns `False` if none is to be made now."""
        in_flight = [call.step for call in self._calls]
        sizes = [step.size for step in in_flight if isinstance(step, ota.Write)]
        if len(sizes) < len(in_flight):
            return False  # only chunks are sent without waiting for the answer before
        step = ota.next_step(self.update, in_flight=sum(sizes))
        if step is None or isinstance(step, ota.Wait) or (sizes and not isinstance(step, ota.Write)):
            return False
        call = _Call(step)
        try:
            params = await self._persist(lambda: self._performer.params(step))
        except NotFound as exc:
            self._calls.append(_Call(step, done=True, outcome=ota.StepFailed(step.method, NO_IMAGE, str(exc))))
            return True
        if self._released:
            return True
        self._calls.append(call)
        await nursery.start(self._perform, call, params)
        return True

    async def _perform(
        self, call: _Call, params: bytes | None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()  # no checkpoint between here and the call: chunks go out in the order of their start
        with call.scope:
            # `Busy`: too many calls of the device are under way
            call.outcome = await self._persist(
                lambda: self._performer.perform(call.step, params, self._caller, self._reported_build())
            )
        call.done = True
        self._wakeup.set()

    def _drop_stale_calls(self) -> None:
        """Keep the calls only if the update still needs them."""
        if self._calls and ota.next_step(self.update) != self._calls[0].step:
            self._abandon_calls()

    def _abandon_calls(self) -> None:
        """Cancel all calls."""
        for call in self._calls:
            call.scope.cancel()
        self._calls.clear()

    async def _wait(self) -> None:
        """Wait for an event or the next deadline."""
        left = (ota.next_deadline(self.update) or 0.0) - self._performer.now()
        with trio.move_on_after(max(left, 0.0)) as timer:
            await self._wakeup.wait()
        if timer.cancelled_caught:
            await self._apply_event(ota.UpdateDeadlinePassed())
