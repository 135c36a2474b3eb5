"""The supervisor of a node's rollouts, for the devices of all nodes. It reads the events of their accounts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import ClassVar, Final

import trio

from mdashcore import notifications
from mdashcore.hub import Hub
from mdashcore.hub.feed import FeedItem
from mdashcore.hub.leases import Leases
from mdashcore.hub.rollouts.performer import RolloutPerformer, UpdateStarter
from mdashcore.trio.background import Background
from mdashcore.trio.drivers.record_supervisor import RecordSupervisor, WorkKey
from mdashcore.trio.drivers.rollout_driver import RolloutDriver

__all__ = ["RolloutSupervisor"]

_ABOUT_DEVICES: Final = (b'{"name":"online"', b'{"name":"deleted"', b'{"name":"ota.')
_ABOUT_ROLLOUTS: Final = b'{"name":"rollout.'
_PROGRESS: Final = (b'{"name":"ota.progress"', b'{"name":"rollout.progress"', b'{"name":"rollout.phase"')
"""The beginnings of the frames that concern rollouts, and of the ones among them that do not."""


class RolloutSupervisor(RecordSupervisor[RolloutDriver]):
    """The rollouts that this node drives.

    Args:
        starter: begins and cancels updates.
        leases: which node drives what; `None` if this process is the only one.
        follow: keeps this node notified of an account's events for as long as the context lasts.
    """

    what: ClassVar[str] = "a rollout"

    def __init__(
        self,
        hub: Hub,
        starter: UpdateStarter,
        background: Background,
        *,
        leases: Leases | None = None,
        follow: Callable[[str], AbstractContextManager[object]] = lambda account: nullcontext(),
    ) -> None:
        super().__init__(background)
        self._hub = hub
        self._starter = starter
        self._leases = leases
        self._follow = follow
        self._by_account: dict[str, list[RolloutDriver]] = {}

    async def follow_clock(self) -> None:
        """Let every rollout that is driven here use times of the wall clock again, in its next step."""
        for driven in self._driven.values():
            driven.due = min(driven.due, trio.current_time())
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
            self._on_changed((account, notifications.head(frame).id))
        elif account in self._by_account and frame.startswith(_ABOUT_DEVICES):
            device = notifications.head(frame).id
            for driven in self._by_account[account]:
                if device in driven.performer:
                    driven.devices[device] = None
                    self._wakeup.set()

    async def _unfinished(self) -> list[WorkKey]:
        return await self._hub.rollouts.unfinished(self._leases)

    async def _open(self, key: WorkKey) -> RolloutDriver:
        with ExitStack() as following:
            following.enter_context(self._follow(key[0]))  # first: no event after the read may be missed
            performer = await RolloutPerformer.load(self._hub.rollouts, self._starter, *key, self._leases)
            return RolloutDriver(performer, self._retry(), following=following.pop_all())

    def _on_refresh(self, driver: RolloutDriver) -> None:
        driver.refresh, driver.due = True, 0.0

    def _on_loaded(self, key: WorkKey, driver: RolloutDriver) -> None:
        self._by_account.setdefault(key[0], []).append(driver)

    def _on_dropped(self, key: WorkKey, driver: RolloutDriver) -> None:
        others = self._by_account[key[0]]
        others.remove(driver)
        if not others:
            del self._by_account[key[0]]
