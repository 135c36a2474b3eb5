"""``/backup``: everything that the service keeps, while it serves."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from quart import Blueprint, Response

from mdashcore.hub.transfer import export_store
from mdashcore.server.api._request import admin, service
from mdashcore.storage import Backend

routes = Blueprint("backup", __name__, url_prefix="/backup")

BATCH = 2**16  # bytes sent at a time: a line is often shorter than its own envelope on the wire


@routes.get("")
async def get_backup() -> Response:
    """An export as JSON lines, for admins. It is whole if its last line says ``"end": true``."""
    admin()
    return Response(_batches(service().hub.backend), content_type="application/jsonl")


async def _batches(backend: Backend) -> AsyncGenerator[bytes, None]:
    """Sent when the request's context is gone already."""
    batch = bytearray()
    async for line in export_store(backend):
        batch += line
        batch += b"\n"
        if len(batch) >= BATCH:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch)
