"""``/backup``: an export of everything that the service stores, while it serves."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from quart import Response

from mdashcore.hub.maintenance.backup import export_store
from mdashcore.server.api._lists import send_pieces
from mdashcore.server.api._request import principal, service
from mdashcore.server.endpoints import API, Access, Routes, Text
from mdashcore.storage import Backend
from mdashcore.trio.turns import Pace

routes: Routes = Routes(f"{API}/backup")


@routes.get(access=Access.ADMIN, answers={200: Text("application/jsonl", "the export")})
async def get_backup() -> Response:
    """Export the store as JSON lines, for admins. The export is complete if its last line has ``"end": true``."""
    pace = Pace(principal().account)
    return await send_pieces(_lines(service().hub.backend, pace), "application/jsonl")


async def _lines(backend: Backend, pace: Pace) -> AsyncGenerator[bytes, None]:
    async with aclosing(export_store(backend)) as lines:
        async for line in lines:
            yield line + b"\n"
            await pace()
