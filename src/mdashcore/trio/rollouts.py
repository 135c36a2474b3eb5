"""Drives the rollouts of a node: one task for all of them, woken by what is told of devices, and by time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from mdashcore import notifications
from mdashcore._errors import MdashError, NotFound
from mdashcore.hub import Hub
from mdashcore.hub.feed import FeedItem
from mdashcore.hub.rollout_run import Hands, RolloutRun
from mdashcore.trio.retry import RETRY_DELAY

if TYPE_CHECKING:
    from mdashcore.trio.node import Node

__all__ = ["NodeHands", "RolloutDriver"]

_log = logging.getLogger(__name__)

REFRESH: Final = 60.0  # seconds between two looks at everything: for what the bus has lost, which is allowed to

MIN_PAUSE: Final = 0.05  # seconds between two steps of a rollout that wants to go on at once: others have their turn

_ABOUT_DEVICES: Final = (b'{"name":"online"', b'{"name":"deleted"', b'{"name":"ota.')
_ABOUT_ROLLOUTS: Final = b'{"name":"rollout.'
_PROGRESS: Final = (b'{"name":"ota.progress"', b'{"name":"rollout.progress"', b'{"name":"rollout.phase"')
"""How the frames begin from which something is learnt, and among them those from which nothing is."""

_Key = tuple[str, str]


@attrs.define(eq=False)
class _Driven:
    """One rollout with what waits for its next step."""

    run: RolloutRun
    due: float = 0.0
    """When it is to be stepped although nothing happens, by Trio's clock: nobody sets that one."""
    reload: bool = False
    refresh: bool = False
    devices: dict[str, None] = attrs.Factory(dict)
    """Those to be looked at: no more than the rollout has."""


class NodeHands:
    """A node's devices, and its updater."""

    def __init__(self, node: Node) -> None:
        self.is_connected = node.is_connected
        self.start = node.updater.start
        self.cancel = node.updater.cancel


class RolloutDriver:
    """The rollouts that this node drives, for the devices that are connected to it.

    Args:
        hands: what begins and cancels updates.
    """

    def __init__(self, hub: Hub, hands: Hands) -> None:
        self._hub = hub
        self._hands = hands
        self._driven: dict[_Key, _Driven] = {}
        self._by_account: dict[str, list[_Driven]] = {}
        self._new: dict[_Key, float] = {}
        """Those to be taken up, and when, by Trio's clock."""
        self._wakeup = trio.Event()
        self._refresh_at = 0.0

    async def run(self) -> None:
        """Drive them, for ever."""
        while True:
            self._wakeup = trio.Event()
            due = await self._round()
            with trio.move_on_at(max(due, trio.current_time() + MIN_PAUSE)):
                await self._wakeup.wait()

    def look_everywhere(self) -> None:
        """Something may have been missed."""
        self._refresh_at = 0.0
        self._wakeup.set()

    def notice(self, account: str, item: FeedItem) -> None:
        """Take a notification, of this node or another; never waits."""
        frame = item.frame
        if frame.startswith(_PROGRESS):
            return
        if frame.startswith(_ABOUT_ROLLOUTS):
            key = account, notifications.head(frame).id
            if (driven := self._driven.get(key)) is not None:
                driven.reload = True
            else:
                self._new[key] = 0.0
            self._wakeup.set()
        elif account in self._by_account and frame.startswith(_ABOUT_DEVICES):
            device = notifications.head(frame).id
            for driven in self._by_account[account]:
                if device in driven.run:
                    driven.devices[device] = None
                    self._wakeup.set()

    async def _round(self) -> float:
        """Do all that is due; when there is more to do. What fails is tried again, and holds up nothing else."""
        now = trio.current_time()
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH
            if not await self._guarded(self._refresh):
                self._refresh_at = now + RETRY_DELAY
        for key in [key for key, due in self._new.items() if due <= now]:
            self._new.pop(key)  # first: what is told of it from now on counts
            if not await self._guarded(lambda key=key: self._take_up(key)):  # type: ignore[misc]
                self._new[key] = now + RETRY_DELAY
        for key, driven in tuple(self._driven.items()):
            if driven.due <= now or driven.devices or driven.reload:
                if not await self._guarded(lambda driven=driven: self._step(driven)):  # type: ignore[misc]
                    driven.due = now + RETRY_DELAY
                if driven.run.gone:
                    self._drop(key)
                await trio.lowlevel.checkpoint()
        return min([self._refresh_at, *self._new.values(), *(driven.due for driven in self._driven.values())])

    async def _step(self, driven: _Driven) -> None:
        run = driven.run
        if driven.refresh:
            await run.refresh()
            driven.refresh = False
        if driven.reload:
            driven.reload = False
            await run.reload()
        while driven.devices:
            device = next(iter(driven.devices))
            await run.look(device)
            driven.devices.pop(device, None)
        due = await run.step()
        driven.due = 0.0 if due is None else trio.current_time() + max(0.0, due - self._hub.now())

    async def _refresh(self) -> None:
        """Take up what is not driven yet, and look at everything that is."""
        for driven in self._driven.values():
            driven.refresh, driven.due = True, 0.0
        async for key in self._hub.rollouts.unfinished():
            if key not in self._driven:
                self._new.setdefault(key, 0.0)

    async def _take_up(self, key: _Key) -> None:
        try:
            run = await RolloutRun.load(self._hub.rollouts, self._hands, *key)
        except NotFound:
            return
        driven = self._driven[key] = _Driven(run, reload=self._new.pop(key, None) is not None)
        self._by_account.setdefault(key[0], []).append(driven)

    def _drop(self, key: _Key) -> None:
        driven = self._driven.pop(key)
        others = self._by_account[key[0]]
        others.remove(driven)
        if not others:
            del self._by_account[key[0]]

    async def _guarded(self, function: Callable[[], Awaitable[Any]]) -> bool:
        """Whether it did what it should; if not, it is tried again."""
        try:
            await function()
        except MdashError as exc:
            _log.warning("a rollout is delayed: %s", exc)
            return False
        except Exception:  # a defect that one rollout meets must not stop the others
            _log.exception("a rollout is delayed")
            return False
        return True
