"""The supervisor of a node's jobs, and their drivers.

The jobs of an account have one step after the other. Those of several accounts are side by side.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final

import attrs

from mdashcore import notifications
from mdashcore.hub import Hub
from mdashcore.hub.feed import FeedItem
from mdashcore.hub.jobs.performer import JobPerformer, JobRunner
from mdashcore.hub.leases import Leases
from mdashcore.trio.background import Background, Retry
from mdashcore.trio.drivers.record_supervisor import RecordSupervisor, WorkKey
from mdashcore.trio.shielding import shielded
from mdashcore.trio.together import together
from mdashcore.trio.turns import Pace

__all__ = ["JobSupervisor"]

MAX_SHADOW_WRITERS: Final = 16  # shadows that a job changes together: a store commits so many writes as one group

_ABOUT_JOBS: Final = b'{"name":"job.'
_PROGRESS: Final = b'{"name":"job.progress"'


@attrs.define(eq=False)
class JobDriver:
    """One job. A step is due immediately, until it has ended."""

    performer: JobPerformer
    retry: Retry
    due: float = 0.0
    reload: bool = False

    @property
    def gone(self) -> bool:
        return self.performer.gone

    def is_due(self, now: float) -> bool:
        return self.due <= now

    async def step(self) -> None:
        if self.reload:
            self.reload = False
            await self.performer.reload()
        await self.performer.step()
        self.due = 0.0

    def close(self) -> None:
        return


class JobSupervisor(RecordSupervisor[JobDriver]):
    """The jobs that this node drives.

    Args:
        leases: which node drives what; `None` if this process is the only one.
    """

    what: ClassVar[str] = "a job"

    def __init__(self, hub: Hub, background: Background, *, leases: Leases | None = None) -> None:
        super().__init__(background)
        self._hub = hub
        self._leases = leases

    def on_notification(self, account: str, item: FeedItem) -> None:
        """Handle a notification of this node or another. Never waits."""
        if item.frame.startswith(_ABOUT_JOBS) and not item.frame.startswith(_PROGRESS):
            self._on_changed((account, notifications.head(item.frame).id))

    async def _unfinished(self) -> list[WorkKey]:
        return await self._hub.jobs.unfinished(self._leases)

    async def _open(self, key: WorkKey) -> JobDriver:
        runner = JobRunner(Pace(key[0]), partial(together, MAX_SHADOW_WRITERS), shielded)
        return JobDriver(await JobPerformer.load(self._hub.jobs, runner, *key, self._leases), self._retry())
