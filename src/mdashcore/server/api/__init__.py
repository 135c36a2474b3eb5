"""The REST API, version 2: one module for each kind of thing, each with a Quart blueprint.

Every handler works for the account that the request was authenticated for (`_request.principal`), and raises errors
of `mdashcore`; how they look on the wire is decided in `mdashcore.server.errors`.
"""

from __future__ import annotations

from quart import Blueprint

from mdashcore.server.api import backup, devices, keys, limits, logs, rollouts, rpc, sessions, shadow, update, users

__all__ = ["blueprint"]


def blueprint() -> Blueprint:
    """All of it, under ``/api/v2``."""
    api = Blueprint("api", __name__, url_prefix="/api/v2")
    for module in (devices, rpc, shadow, update, rollouts, keys, limits, logs, users, sessions, backup):
        api.register_blueprint(module.routes)
    return api
