"""The health of the server: whether its store answers, whether it belongs to the cluster, whether it is shutting down.

Strangers may ask as often as they like: all requests within a second share one read of the store.
"""

from __future__ import annotations

import logging
from math import inf
from typing import Final

import attrs
import trio

from mdashcore._errors import Damaged
from mdashcore.trio.node import Node

__all__ = ["Health", "Readiness"]

_log = logging.getLogger(__name__)

PROBE_TIMEOUT: Final = 3.0  # seconds: monitors ask every few seconds with a time-out of their own, and should get an
# answer before it

PROBE_AGE: Final = 1.0  # seconds for which an answer of the store is repeated: monitors ask less often than that


@attrs.frozen
class Readiness:
    """Whether the server should get requests, in parts."""

    store: bool
    """Whether the store answers."""
    cluster: bool
    """Whether the other nodes on the store know this one. `True` if the store can have only one."""
    accepting: bool
    """Whether the server is not shutting down."""

    @property
    def failing(self) -> list[str]:
        """The names of the parts that are not ready."""
        return [name for name, ready in attrs.asdict(self).items() if not ready]


class Health:
    """The health of one server. Each answer takes `PROBE_TIMEOUT` at most, also if the store never answers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._draining = False
        self._answered = trio.Event()
        """Set when the store has answered the newest probe, or failed: while it is not set, a probe runs."""
        self._answered.set()
        self._started = -inf
        self._works = True
        self._silent = False
        """Whether the store has not even answered the newest probe with an error."""

    def drain(self) -> None:
        """Report from now on that the server is shutting down."""
        self._draining = True

    async def check(self) -> Readiness:
        """Return the readiness."""
        membership = self._node.others.membership
        return Readiness(
            store=await self.store_works(),
            cluster=membership is None or not membership.is_lost,
            accepting=not self._draining,
        )

    async def store_works(self) -> bool:
        """Return whether the store answered within `PROBE_TIMEOUT`, now or a moment ago."""
        if self._answered.is_set() and trio.current_time() >= self._started + PROBE_AGE:
            self._started, self._answered = trio.current_time(), trio.Event()
            self._node.background.spawn(self._probe)  # a store may shield its work from cancellation
        answered = self._answered  # by the time that this task runs again, another may wait for the next answer
        with trio.move_on_at(self._started + PROBE_TIMEOUT):
            await answered.wait()
        if not answered.is_set():
            self._note("no answer", silent=True)
        return self._works

    async def store_answers(self) -> bool:
        """Return whether the store answered within `PROBE_TIMEOUT`, if only with an error.

        The service manager restarts a server whose store does not answer. A store that reports that it is away comes
        back without a restart, which would only disconnect the devices.
        """
        await self.store_works()
        return not self._silent

    async def _probe(self) -> None:
        """Read a document. Which one does not matter, only that the store answers."""
        try:
            with trio.move_on_after(PROBE_TIMEOUT) as timer:
                await self._node.hub.accounts.get("nobody")
            silent = timer.cancelled_caught
            self._note("no answer" if silent else None, silent=silent)
        except Damaged:
            self._note(None)
        except Exception as exc:
            self._note(str(exc) or type(exc).__name__)
        finally:
            self._answered.set()

    def _note(self, failure: str | None, *, silent: bool = False) -> None:
        """Record the outcome of a probe. The log has one line when the store fails, and one when it is back."""
        if self._works and failure is not None:
            _log.error("the storage is not well: %s", failure)
        elif not self._works and failure is None:
            _log.warning("the storage is well again")
        self._works, self._silent = failure is None, silent
