"""The driver of one rollout: its steps, and the events that wait for the next one."""

from __future__ import annotations

from contextlib import ExitStack

import attrs
import trio

from mdashcore.hub.rollouts.performer import RolloutPerformer
from mdashcore.trio.background import Retry

__all__ = ["RolloutDriver"]


@attrs.define(eq=False)
class RolloutDriver:
    """One rollout with the events that wait for its next step."""

    performer: RolloutPerformer
    retry: Retry
    due: float = 0.0
    """Time of the next step without any event, by Trio's clock, which a step of the wall clock does not move."""
    reload: bool = False
    refresh: bool = False
    devices: dict[str, None] = attrs.Factory(dict)
    """Devices to be read again: no more than the rollout has."""
    following: ExitStack = attrs.Factory(ExitStack)
    """Keeps this node notified of the account's events until it is closed."""

    @property
    def gone(self) -> bool:
        """Whether nothing is left to drive."""
        return self.performer.gone

    def close(self) -> None:
        """Follow the account's events no longer."""
        self.following.close()

    def is_due(self, now: float) -> bool:
        """Return whether a step is due at `now`, by Trio's clock."""
        return self.due <= now or (not self.retry.failing and bool(self.devices or self.reload))

    async def step(self) -> None:
        """Read everything that has changed, and take the rollout one step further."""
        if self.refresh:
            await self.performer.refresh()
            self.refresh = False
        if self.reload:
            self.reload = False
            await self.performer.reload()
        while self.devices:
            device = next(iter(self.devices))
            await self.performer.reload_device(device)
            self.devices.pop(device, None)
        due = await self.performer.step()
        self.due = 0.0 if due is None else trio.current_time() + max(0.0, due - self.performer.now())
