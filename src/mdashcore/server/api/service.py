"""``/`` and ``/healthz``: the service itself."""

from __future__ import annotations

import logging
from typing import Final, cast

import trio
from quart import Response, request

from mdashcore import __version__
from mdashcore._errors import StorageError
from mdashcore.documents import HealthDocument, ServiceDocument
from mdashcore.server import errors
from mdashcore.server.api._request import answer, service
from mdashcore.server.asgi import Scope, root_path
from mdashcore.server.endpoints import API, Access, Routes

_log = logging.getLogger(__name__)

HEALTH_TIMEOUT: Final = 3.0  # seconds: monitors ask every few seconds with a time-out of their own, and should get an
# answer before it

routes: Routes = Routes("")


@routes.get("/", access=Access.PUBLIC, answers={200: ServiceDocument})
async def describe() -> Response:
    """Name the service and its API, for people who open the address in a client; a browser gets the dashboard."""
    at = root_path(cast(Scope, request.scope))
    document: ServiceDocument = {
        "name": "mdashcore",
        "version": __version__,
        "api": f"{at}{API}",
        "health": f"{at}/healthz",
        "openapi": f"{at}/openapi.json",
    }
    return answer(document)


@routes.get("/healthz", access=Access.PUBLIC, answers={200: HealthDocument, 503: HealthDocument})
async def check_health() -> Response:
    """Report whether the server and its storage work, for load balancers and service managers."""
    try:
        with trio.fail_after(HEALTH_TIMEOUT):
            await service().hub.accounts.get("nobody")  # the name does not matter, only that the storage answers
    except (StorageError, trio.TooSlowError) as exc:
        _log.error("the storage is not well: %s", str(exc) or "no answer")
        return answer({"status": "storage unavailable", **errors.body(StorageError())}, 503)
    document: HealthDocument = {"status": "ok"}
    return answer(document)
