"""The topics of accounts that a node reads: each for as long as a part of the node needs it, and a little longer.

What a node reads so grows with its own clients, not with those of other nodes. A topic is subscribed to in the
background: what was published before the subscription is live is missed, as after any gap, and `on_subscribed` says
that it has to be read from the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from math import inf
from typing import Final

import attrs
import trio

from mdashcore.storage import MessageBus
from mdashcore.trio.background import Background

__all__ = ["LINGER", "MAX_TOPICS", "Interests"]

_log = logging.getLogger(__name__)

LINGER: Final = 10.0  # seconds for which a topic is still read: a page that is reloaded subscribes to nothing anew

MAX_TOPICS: Final = 10_000  # topics read at the same time, at 10 KB each: as many accounts with clients on one node


@attrs.define(eq=False)
class _Interest:
    """The topic of one account."""

    users: int = 0
    """Number of parts of the node that need it."""
    scope: trio.CancelScope | None = None
    """The scope of the task that reads it. Its deadline ends a topic that lingers."""
    is_live: bool = False
    """Whether the subscription has begun."""

    @property
    def lingers(self) -> bool:
        """Whether it is read although no part of the node needs it."""
        return self.users == 0 and self.scope is not None and not self.scope.cancel_called


class Interests:
    """The topics of one kind.

    Beyond `most` topics those that linger end early. If there are none, a further account waits until a topic ends. Its
    messages are not received until then, and its users read their log, or the store, at their own intervals.

    Args:
        topic: returns the topic of an account.
        receive: called with the account and each message of its topic. Must not wait.
        on_subscribed: called with the account whenever its topic begins to be read, and after each gap. Messages from
            before that may have been missed.
        most: the number of topics that are read at the same time.
        linger: seconds for which a topic is read after its last user has left.
    """

    def __init__(
        self,
        bus: MessageBus,
        background: Background,
        *,
        topic: Callable[[str], str],
        receive: Callable[[str, bytes], None],
        on_subscribed: Callable[[str], None],
        most: int = MAX_TOPICS,
        linger: float = LINGER,
    ) -> None:
        self._bus = bus
        self._background = background
        self._topic = topic
        self._receive = receive
        self._on_subscribed = on_subscribed
        self._most = most
        self._linger = linger
        self._accounts: dict[str, _Interest] = {}
        self._reading = 0
        self._lingering: dict[str, None] = {}
        """The accounts whose topic may linger, the oldest first."""
        self._waiting: dict[str, None] = {}
        """The accounts that wait for room, in order."""
        self._full = False
        self._ended = False

    def __len__(self) -> int:
        """Return the number of topics that are being read."""
        return self._reading

    def hold(self, account: str) -> AbstractContextManager[Callable[[], bool]]:
        """Read the topic of an account for as long as the context lasts. The subscription may begin a little later.

        The context's value returns whether it has begun: as long as it has not, all messages are missed.
        """
        return _Hold(self, account)

    def _enter(self, account: str) -> _Interest:
        interest = self._accounts.get(account)
        if interest is None:
            interest = self._accounts[account] = _Interest()
        interest.users += 1
        self._lingering.pop(account, None)
        if interest.scope is not None:
            interest.scope.deadline = inf  # too late if the scope has ended already: `_read` then begins again
        elif account not in self._waiting:
            self._begin(account, interest)
        return interest

    def _leave(self, account: str, interest: _Interest) -> None:
        interest.users -= 1
        if interest.users:
            return
        if interest.scope is None:
            self._waiting.pop(account, None)
            del self._accounts[account]
        elif self._waiting:
            interest.scope.cancel()
        else:
            interest.scope.deadline = trio.current_time() + self._linger
            self._lingering[account] = None

    def _begin(self, account: str, interest: _Interest) -> None:
        """Read a topic, or let it wait for room."""
        if self._reading < self._most:
            self._reading += 1
            interest.scope = trio.CancelScope()
            self._background.spawn(partial(self._read, account, interest, interest.scope))
            return
        self._waiting[account] = None
        self._end_lingering()
        if not self._full:
            self._full = True
            _log.warning(
                "%d topics of accounts are read, and no more can be: notifications of further accounts come late",
                self._most,
            )

    def _end_lingering(self) -> None:
        """End one topic that lingers, if there is one."""
        while self._lingering:
            account = next(iter(self._lingering))
            del self._lingering[account]
            interest = self._accounts.get(account)
            if interest is not None and interest.lingers and interest.scope is not None:
                interest.scope.cancel()
                return

    async def _read(self, account: str, interest: _Interest, scope: trio.CancelScope) -> None:
        def on_subscribed() -> None:
            interest.is_live = True
            self._on_subscribed(account)

        try:
            with scope:
                await self._background.listen(
                    self._bus,
                    self._topic(account),
                    partial(self._receive, account),
                    on_subscribed=on_subscribed,
                )
        except trio.Cancelled:  # the node ends: a topic that ends alone does so by its own scope
            self._ended = True
            raise
        finally:
            self._reading -= 1
            self._lingering.pop(account, None)
            interest.scope, interest.is_live = None, False
            if not interest.users:
                del self._accounts[account]
            else:
                self._waiting[account] = None  # a user came while the subscription was ending
            self._begin_waiting()

    def _begin_waiting(self) -> None:
        while self._waiting and self._reading < self._most and not self._ended:
            account = next(iter(self._waiting))
            del self._waiting[account]
            self._begin(account, self._accounts[account])
        if not self._waiting:
            self._full = False


class _Hold(AbstractContextManager[Callable[[], bool]]):
    """The context of `Interests.hold`. No generator: one that is left unfinished when the node ends runs no code."""

    def __init__(self, interests: Interests, account: str) -> None:
        self._interests = interests
        self._account = account

    def __enter__(self) -> Callable[[], bool]:
        self._interest = self._interests._enter(self._account)
        return self._is_live

    def __exit__(self, *error: object) -> None:
        self._interests._leave(self._account, self._interest)

    def _is_live(self) -> bool:
        return self._interest.is_live
