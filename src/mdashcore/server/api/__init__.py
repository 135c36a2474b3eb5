"""The REST API, version 2: one module for each resource, each with a Quart blueprint.

Every handler works for the account of the authenticated request (`_request.principal`), and raises errors of
`mdashcore`. `mdashcore.server.errors` decides their form on the wire.
"""

from __future__ import annotations

from quart import Blueprint

from mdashcore.server.api import backup, devices, keys, limits, logs, rollouts, rpc, sessions, shadow, update, users

__all__ = ["blueprint"]


def blueprint() -> Blueprint:
    """Return the blueprint of all resources, under ``/api/v2``."""
    api = Blueprint("api", __name__, url_prefix="/api/v2")
    for module in (devices, rpc, shadow, update, rollouts, keys, limits, logs, users, sessions, backup):
        api.register_blueprint(module.routes)
    return api
