"""``/metrics``: on the port of the server for clients with the token, or on an address of its own."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Final

from mdashcore import _json
from mdashcore._errors import NotFound, Overloaded, Unauthenticated
from mdashcore.server import errors
from mdashcore.server.asgi import App, Receive, Scope, Send, header, respond, respond_error
from mdashcore.server.metrics.exposition import CONTENT_TYPE, OPEN_METRICS, wants_open_metrics

__all__ = ["METRICS_PATH", "MetricsRoute", "only_probes"]

METRICS_PATH: Final = "/metrics"
PROBE_PATHS: Final = ("/livez", "/readyz", "/healthz")


class MetricsRoute:
    """Answers ``GET /metrics`` in front of an app.

    Args:
        text: returns the metrics, as OpenMetrics if its argument says so. `Overloaded` is answered with 503.
        token: what a client has to send as ``Authorization: Bearer TOKEN``; `None` if any client may read the metrics.
    """

    routes: Final = (("GET", METRICS_PATH),)

    def __init__(self, app: App, text: Callable[[bool], Awaitable[bytes]], token: str | None) -> None:
        self.inner = app
        self._text = text
        self._digest = None if token is None else _digest(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != METRICS_PATH:
            await self.inner(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            body = _json.encode(errors.plain_body(405, f"{METRICS_PATH} is only read"))
            await respond(send, 405, body, [("allow", "GET, HEAD"), ("connection", "close")])
        elif self._digest is not None and not hmac.compare_digest(self._digest, _digest(_bearer(scope))):
            error = Unauthenticated("the metrics need Authorization: Bearer TOKEN, with the token of the configuration")
            await respond_error(send, error, unread=True, from_page=True)
        else:
            await self._answer(scope, send)

    async def _answer(self, scope: Scope, send: Send) -> None:
        open_metrics = wants_open_metrics(header(scope, b"accept") or "")
        try:
            body = await self._text(open_metrics)
        except Overloaded as exc:  # an empty text would say that the server has nothing to report
            await respond_error(send, exc, unread=True)
            return
        fields = [
            (b"content-type", (OPEN_METRICS if open_metrics else CONTENT_TYPE).encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"vary", b"Accept"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        sent = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": sent, "more_body": False})


def only_probes(app: App) -> App:
    """Return an app for an address of its own: it serves what an app says about its health, and nothing else.

    A probe there does not wait for the devices and clients that wait to be accepted at the port of the server.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in PROBE_PATHS:
            await app(scope, receive, send)
        elif scope["type"] == "http":
            places = ", ".join((METRICS_PATH, *PROBE_PATHS))
            await respond_error(send, NotFound(f"only {places} are served here"), unread=True)

    return serve


def _bearer(scope: Scope) -> str:
    scheme, _, value = (header(scope, b"authorization") or "").strip().partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
