"""The REST app: Quart-Trio for most routes, with the guards and the uploads in front of it."""

from __future__ import annotations

import logging
from typing import Any, cast

import trio
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from mdashcore import __version__
from mdashcore._errors import MdashError, StorageError, status_of
from mdashcore.server import api, errors
from mdashcore.server.api._request import answer, body_limit
from mdashcore.server.api.compatibility import instead_of
from mdashcore.server.asgi import App, FramingGuard, Receive, Scope, Send, is_from_page, root_path
from mdashcore.server.http.bodies import BodyGuard
from mdashcore.server.http.fairness import FairApp
from mdashcore.server.http.forwarded import ProxiedApp
from mdashcore.server.http.guards import check_request
from mdashcore.server.http.root_path import RootPathApp
from mdashcore.server.lanes.fast_lane import SECURITY_HEADERS
from mdashcore.server.query import known_parameters
from mdashcore.server.service import Service
from mdashcore.server.static import StaticFiles
from mdashcore.server.uploads.rollout_upload import RolloutRoute
from mdashcore.server.uploads.update_upload import UploadRoute
from mdashcore.trio.transport.server_websocket import NO_HANDSHAKE

__all__ = ["App", "Receive", "Scope", "Send", "create_app", "create_quart_app", "routes"]

_log = logging.getLogger(__name__)

PRINCIPAL = "mdashcore.principal"  # in a scope: the principal of the request, if an outer layer has authenticated it

HEALTH_TIMEOUT = 3.0  # seconds: monitors ask every few seconds with a time-out of their own, and should get an answer
# before it

LOGIN_PATHS = ("/api/v2/login", "/api/v2/session")
"""The paths that are answered without a login."""


def create_app(service: Service) -> App:
    """Create the whole REST API as an ASGI app, for any server that runs on Trio.

    The app heeds the `root_path` of its scopes: links, cookies and redirects lead below it. WebSockets are not part of
    the app: `mdashcore.server.gateway` serves them.
    """
    settings = service.settings
    quart = create_quart_app(service)
    paths = quart.url_map.bind("")

    async def authenticate(scope: Scope) -> str | None:
        if not needs_login(scope["path"]):
            return None
        found = scope[PRINCIPAL] = await service.authenticator.of_request(scope)
        return found.account

    def limit_of(scope: Scope) -> int:
        try:
            endpoint, _ = paths.match(scope["path"], method=scope["method"])
        except HTTPException:  # no such path, or another method
            return 0
        return body_limit(quart.view_functions[endpoint], settings.max_body)

    guarded = BodyGuard(
        cast(App, quart),
        service.bodies,
        limit_of=limit_of,
        timeout=settings.body_timeout,
        authenticate=authenticate,
    )
    whole = FramingGuard(FairApp(StaticFiles(UploadRoute(service, RolloutRoute(service, guarded)))))
    return ProxiedApp(RootPathApp(whole), service.proxies, settings.hsts_max_age)


SHADOW = "/api/v2/devices/<id>/shadow"
"""The route that heeds ``If-Match`` and ``If-None-Match``."""


def routes(app: App) -> list[tuple[str, str]]:
    """List method and path of every route of an app made by `create_app`. Parameters are in angle brackets."""
    found: list[tuple[str, str]] = []
    layer: Any = app
    while not isinstance(layer, QuartTrio):
        found += getattr(layer, "routes", ())
        layer = layer.inner
    for rule in layer.url_map.iter_rules():
        found += [(method, rule.rule) for method in sorted(rule.methods or ()) if method not in ("HEAD", "OPTIONS")]
    return found


def needs_login(path: str) -> bool:
    """Return whether a path requires a login."""
    return path.startswith("/api/") and path.rstrip("/") not in LOGIN_PATHS


def nothing_at(path: str, root: str = "") -> str:
    """Return the error message for a path that is not served."""
    instead = instead_of(path)
    return f"nothing is served at {root}{path}" + (f": {instead}" if instead else "")


def create_quart_app(service: Service) -> QuartTrio:
    """Create the Quart part without the guards. Put it behind `BodyGuard` before it serves requests."""
    app = QuartTrio("mdashcore.server", static_folder=None)
    app.config.update(
        MDASH_SERVICE=service,
        PROVIDE_AUTOMATIC_OPTIONS=False,
        MAX_CONTENT_LENGTH=None,  # `BodyGuard` counts the bytes
        BODY_TIMEOUT=None,
        RESPONSE_TIMEOUT=None,  # answers are small and complete, and the stream has a time-out of its own
    )
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # merging answers with redirects, which API clients do not follow
    app.register_blueprint(api.blueprint())

    @app.before_request
    async def authenticate() -> None:
        scope = cast(Scope, request.scope)
        if (known := scope.get(PRINCIPAL)) is not None:
            g.principal = known
        elif needs_login(request.path) and request.endpoint != "socket_only":
            g.principal = await service.authenticator.of_request(scope)

    @app.before_request
    async def check() -> None:
        if request.url_rule is not None and request.path.startswith("/api/"):
            route = request.url_rule.rule
            known = known_parameters(request.method, route)
            check_request(cast(Scope, request.scope), known, conditional=route == SHADOW)

    @app.after_request
    async def secure(response: Response) -> Response:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.errorhandler(MdashError)
    async def our_error(error: MdashError) -> Response:
        if isinstance(error, StorageError):
            _log.error("%s %s failed: %s", request.method, request.path, error)
        response = answer(errors.body(error), status_of(error))
        response.headers.update(errors.headers(error, from_page=is_from_page(cast(Scope, request.scope))))
        return response

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        words = (
            nothing_at(request.path, root_path(cast(Scope, request.scope)))
            if status == 404
            else error.description or ""
        )
        response = answer(errors.problem(status, words), status)
        if status == 405:
            response.headers["Allow"] = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return response

    @app.errorhandler(Exception)
    async def unexpected(error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.path, exc_info=error)
        return answer(errors.problem(500, "internal error"), 500)

    @app.get("/")
    async def root() -> Response:
        """Name the service and its API, for people who open the address in a browser."""
        at = root_path(cast(Scope, request.scope))
        return answer({"name": "mdashcore", "version": __version__, "api": f"{at}/api/v2", "health": f"{at}/healthz"})

    @app.get("/healthz")
    async def health() -> Response:
        """Report whether the server and its storage work, for load balancers and service managers."""
        try:
            with trio.fail_after(HEALTH_TIMEOUT):
                await service.hub.accounts.get("nobody")  # the name does not matter, only that the storage answers
        except (StorageError, trio.TooSlowError) as exc:
            _log.error("the storage is not well: %s", str(exc) or "no answer")
            return answer({"status": "storage unavailable", **errors.body(StorageError())}, 503)
        return answer({"status": "ok"})

    @app.get("/api/v2/rpc")
    @app.get("/api/v2/notify")
    async def socket_only() -> Response:
        """Refuse a request for a socket's address without a handshake: 426, whatever its credentials are.

        The proxy in front of a device may drop the handshake. With 401 the device would take its token for a bad one.
        """
        response = answer(errors.problem(426, NO_HANDSHAKE), 426)
        response.headers["Upgrade"] = "websocket"
        response.headers["Connection"] = "close"
        return response

    return app
