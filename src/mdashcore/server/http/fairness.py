"""Requests of the slow lane begin one after the other, each client in turn.

Such a request costs a framework's milliseconds. A client with a hundred of them at a time would otherwise have all of
them begun in the same turn of the loop, and every device call would wait for all.
"""

from __future__ import annotations

from collections.abc import Hashable

from mdashcore.server.asgi import App, Receive, Scope, Send, header
from mdashcore.trio.turns import Turn

__all__ = ["FairApp"]


class FairApp:
    """Has an app's requests wait for their turn."""

    def __init__(self, app: App) -> None:
        self.inner = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Turn(_owner(scope)).give_way()
        await self.inner(scope, receive, send)


def _owner(scope: Scope) -> Hashable:
    """Return who asks, as far as that is known before it is checked: by what is sent as a proof, or else from where."""
    proof = header(scope, b"authorization") or header(scope, b"cookie")
    return ("client", str((scope.get("client") or ("",))[0])) if proof is None else ("proof", proof)
