"""The supervisor of a node's rollouts: one task for all of them, woken by notifications and by time.

If several nodes share a store, one of them drives a rollout, for the devices of all: the node on which it was created.
When that node is gone, one of the others takes the rollout over. The driver reads the account's events for as long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Final

import attrs
import trio

from mdashcore import notifications
from mdashcore._errors import Conflict, NotFound
from mdashcore.hub import Hub
from mdashcore.hub.feed import FeedItem
from mdashcore.hub.leases import Leases
from mdashcore.hub.rollouts.performer import RolloutPerformer, UpdateStarter
from mdashcore.trio.background import Background, Retry
from mdashcore.trio.drivers.rollout_driver import RolloutDriver

__all__ = ["RolloutSupervisor"]

REFRESH_INTERVAL: Final = 60.0  # seconds between two reads of everything: for messages that the bus has lost, as it may

STEP_PAUSE: Final = 0.05  # seconds between two steps of a rollout that is due immediately, so that other tasks run

_ABOUT_DEVICES: Final = (b'{"name":"online"', b'{"name":"deleted"', b'{"name":"ota.')
_ABOUT_ROLLOUTS: Final = b'{"name":"rollout.'
_PROGRESS: Final = (b'{"name":"ota.progress"', b'{"name":"rollout.progress"', b'{"name":"rollout.phase"')
"""The beginnings of the frames that concern rollouts, and of the ones among them that do not."""

_Key = tuple[str, str]


@attrs.define(eq=False)
class _New:
    """A rollout that is to be loaded."""

    retry: Retry
    due: float = 0.0
    """Time of the next try, by Trio's clock."""


class RolloutSupervisor:
    """The rollouts that this node drives.

    Args:
        starter: begins and cancels updates.
        leases: which node drives what; `None` if this process is the only one.
        follow: keeps this node notified of an account's events for as long as the context lasts.
    """

    def __init__(
        self,
        hub: Hub,
        starter: UpdateStarter,
        background: Background,
        *,
        leases: Leases | None = None,
        follow: Callable[[str], AbstractContextManager[object]] = lambda account: nullcontext(),
    ) -> None:
        self._hub = hub
        self._starter = starter
        self._background = background
        self._leases = leases
        self._follow = follow
        self._driven: dict[_Key, RolloutDriver] = {}
        self._by_account: dict[str, list[RolloutDriver]] = {}
        self._new: dict[_Key, _New] = {}
        self._refreshing = self._retry()
        self._wakeup = trio.Event()
        self._refresh_at = 0.0

    async def run(self) -> None:
        """Drive the rollouts, for ever."""
        while True:
            self._wakeup = trio.Event()
            due = await self._round()
            with trio.move_on_at(max(due, trio.current_time() + STEP_PAUSE)):
                await self._wakeup.wait()

    async def follow_clock(self) -> None:
        """Let every rollout that is driven here use times of the wall clock again, in its next step."""
        for driven in self._driven.values():
            driven.due = min(driven.due, trio.current_time())
        self._wakeup.set()

    def take_over(self) -> None:
        """Look for rollouts that a node which is gone has left."""
        self._refresh_at = 0.0
        self._wakeup.set()

    def on_missed(self, account: str) -> None:
        """Read the rollouts of an account again, because notifications may have been missed."""
        for driven in self._by_account.get(account, ()):
            driven.performer.forget_offline()
            driven.refresh, driven.due = True, 0.0
            self._wakeup.set()

    def on_notification(self, account: str, item: FeedItem) -> None:
        """Handle a notification of this node or another. Never waits."""
        frame = item.frame
        if frame.startswith(_PROGRESS):
            return
        if frame.startswith(_ABOUT_ROLLOUTS):
            key = account, notifications.head(frame).id
            if (driven := self._driven.get(key)) is not None:
                driven.reload = True
            else:
                self._load_soon(key)
            self._wakeup.set()
        elif account in self._by_account and frame.startswith(_ABOUT_DEVICES):
            device = notifications.head(frame).id
            for driven in self._by_account[account]:
                if device in driven.performer:
                    driven.devices[device] = None
                    self._wakeup.set()

    async def _round(self) -> float:
        """Do all that is due. Returns the time of the next round. A failed rollout is retried, and delays no other."""
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
        for key, driven in tuple(self._driven.items()):
            if driven.is_due(now):
                if (delay := await _try(driven.retry, driven.step)) is not None:
                    driven.due = now + delay
                if driven.performer.gone:
                    self._drop(key)
                await trio.lowlevel.checkpoint()
        times = (each.due for waiting in (self._new, self._driven) for each in waiting.values())
        return min([self._refresh_at, *times])

    async def _refresh(self) -> None:
        """Load the rollouts that are not driven yet, and read all others again."""
        for driven in self._driven.values():
            driven.refresh, driven.due = True, 0.0
        async for key in self._hub.rollouts.unfinished(self._leases):
            if key not in self._driven:
                self._load_soon(key)

    async def _load(self, key: _Key) -> None:
        with ExitStack() as following:
            following.enter_context(self._follow(key[0]))  # first: no event after the read may be missed
            try:
                performer = await RolloutPerformer.load(self._hub.rollouts, self._starter, *key, self._leases)
            except (NotFound, Conflict):
                return
            driven = self._driven[key] = RolloutDriver(
                performer,
                self._retry(),
                reload=self._new.pop(key, None) is not None,
                following=following.pop_all(),
            )
        self._by_account.setdefault(key[0], []).append(driven)

    def _drop(self, key: _Key) -> None:
        driven = self._driven.pop(key)
        driven.retry.give_up()
        driven.following.close()
        others = self._by_account[key[0]]
        others.remove(driven)
        if not others:
            del self._by_account[key[0]]

    def _load_soon(self, key: _Key) -> None:
        """Load a rollout in the next round."""
        self._new.setdefault(key, _New(self._retry())).due = 0.0

    def _retry(self) -> Retry:
        return self._background.retry("a rollout")


async def _try(retry: Retry, function: Callable[[], Awaitable[None]]) -> float | None:
    """Call a function. Returns the seconds after which it has to be called again, `None` if it succeeded."""
    try:
        await function()
    except Exception as exc:  # a defect in one rollout must not stop the others
        return retry.failed(exc)
    retry.succeeded()
    return None
