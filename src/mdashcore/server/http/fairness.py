"""Lets the requests of the slow lane begin one after the other, each account in turn.

Such a request costs a framework's milliseconds. A client with a hundred requests at the same time would otherwise have
all of them begun in the same turn of the loop, and every device call would wait for all.

The account of a request is known only after the request has begun. So each proof (a key, a cookie, a password) that was
accepted is remembered with its account, and gets that account's turns: an account with a thousand keys has no more
turns than one with a single key. A request with any other proof gets the turn of its client's address (of IPv6 the
/64), so that invented keys earn no more turns.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import Final, TypeAlias

from mdashcore.server.asgi import ON_KNOWN, QUEUED, App, Receive, Scope, Send, header
from mdashcore.server.networks import network_of
from mdashcore.trio.turns import Turn

__all__ = ["FairApp"]

OnKnown: TypeAlias = Callable[[str], None]

MAX_PROOFS: Final = 4096  # proofs that are remembered, at 200 bytes each: those that were used last


class FairApp:
    """Makes an app's requests wait for their turn."""

    def __init__(self, app: App) -> None:
        self.inner = app
        self._accounts: OrderedDict[bytes, str] = OrderedDict()  # accounts, by the digest of an accepted proof

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            digest = _digest(scope)
            with scope.get(QUEUED, nullcontext)():
                await Turn(self._owner(scope, digest)).give_way()
            if digest is not None:
                scope = {**scope, ON_KNOWN: self._remember(digest, scope)}
        await self.inner(scope, receive, send)

    def _owner(self, scope: Scope, digest: bytes | None) -> Hashable:
        if digest is not None and (account := self._accounts.get(digest)) is not None:
            return account
        return "client", network_of(str((scope.get("client") or ("",))[0]))

    def _remember(self, digest: bytes, scope: Scope) -> OnKnown:
        outer: OnKnown | None = scope.get(ON_KNOWN)

        def on_known(account: str) -> None:
            self._accounts[digest] = account
            self._accounts.move_to_end(digest)
            if len(self._accounts) > MAX_PROOFS:
                self._accounts.popitem(last=False)
            if outer is not None:
                outer(account)

        return on_known


def _digest(scope: Scope) -> bytes | None:
    """Return a digest of a request's proof; no secret is stored."""
    query: bytes = scope["query_string"]
    proof = header(scope, b"authorization") or header(scope, b"cookie")
    if proof is None and b"access_token=" not in query:
        return None
    return hashlib.sha256(query if proof is None else proof.encode("latin-1")).digest()
