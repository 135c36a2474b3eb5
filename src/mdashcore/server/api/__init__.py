"""The REST API, version 2: one module for each resource, each with its endpoints.

Every handler works for the account of the authenticated request (`_request.principal`), and raises errors of
`mdashcore`. `mdashcore.server.errors` decides their form on the wire.
"""

from __future__ import annotations

from typing import Final

from mdashcore.server.api import (
    backup,
    devices,
    filters,
    firmware,
    fleet,
    jobs,
    keys,
    limits,
    logs,
    metrics,
    rollouts,
    rpc,
    series,
    service,
    sessions,
    shadow,
    sockets,
    tags,
    update,
    users,
)
from mdashcore.server.endpoints import Endpoint

__all__ = ["API_ENDPOINTS"]

_MODULES: Final = (
    fleet,
    devices,
    series,
    tags,
    filters,
    rpc,
    shadow,
    update,
    rollouts,
    firmware,
    jobs,
    keys,
    logs,
    users,
    limits,
    sessions,
    backup,
    sockets,
    metrics,
    service,
)

API_ENDPOINTS: Final[tuple[Endpoint, ...]] = tuple(each for module in _MODULES for each in module.routes.endpoints)
"""The endpoints that Quart serves."""
