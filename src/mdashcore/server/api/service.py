"""``/``, ``/livez``, ``/readyz`` and ``/healthz``: the service itself."""

from __future__ import annotations

from typing import cast

from quart import Response, request

from mdashcore import __version__
from mdashcore._errors import StorageError
from mdashcore.documents import HealthDocument, ReadinessChecks, ReadinessDocument, ServiceDocument
from mdashcore.server import errors
from mdashcore.server.api._request import answer, service
from mdashcore.server.asgi import Scope, root_path
from mdashcore.server.endpoints import API, Access, Routes

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


@routes.get("/livez", access=Access.PUBLIC, answers={200: HealthDocument})
async def check_life() -> Response:
    """Answer as long as the process works. A server whose store is away need not be started again."""
    document: HealthDocument = {"status": "ok"}
    return answer(document)


@routes.get("/readyz", access=Access.PUBLIC, answers={200: ReadinessDocument, 503: ReadinessDocument})
async def check_readiness() -> Response:
    """Report whether the server should get requests, and which parts are not ready."""
    readiness = await service().health.check()
    checks: ReadinessChecks = {
        "store": readiness.store,
        "cluster": readiness.cluster,
        "accepting": readiness.accepting,
    }
    document: ReadinessDocument = {"status": "not ready" if readiness.failing else "ready", "checks": checks}
    if not readiness.failing:
        return answer(document)
    return answer({**document, **errors.plain_body(503, f"not ready: {', '.join(readiness.failing)}")}, 503)


@routes.get("/healthz", access=Access.PUBLIC, answers={200: HealthDocument, 503: HealthDocument})
async def check_health() -> Response:
    """Report whether the server and its storage work, for monitors. For load balancers there is `/readyz`."""
    if not await service().health.store_works():
        return answer({"status": "storage unavailable", **errors.body(StorageError())}, 503)
    document: HealthDocument = {"status": "ok"}
    return answer(document)
