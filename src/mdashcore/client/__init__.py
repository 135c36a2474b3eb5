"""A client of a running server, for asyncio and Trio: devices, calls, shadows, updates, rollouts, jobs, notifications.

It needs the extra `client`, and neither Trio nor the rest of the server.

::

    async with Client("https://mdash.example", key="mdk_…") as client:
        await client.update_shadow("lamp", desired={"on": True})
        print(await client.call("lamp", "Sys.GetInfo"))
"""

from __future__ import annotations

try:
    import httpx
    import websockets
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        f"the client needs {_missing.name}: pip install 'mdashcore[client]'", name=_missing.name
    ) from None

from mdashcore._server_url import parse_server
from mdashcore.client._client import Client
from mdashcore.client._errors import ServerUnreachable, UnexpectedAnswer
from mdashcore.client._notifications import Notifications
from mdashcore.client._pages import DevicesPage
from mdashcore.client._socket import ClientSocket

__all__ = [
    "Client",
    "ClientSocket",
    "DevicesPage",
    "Notifications",
    "ServerUnreachable",
    "UnexpectedAnswer",
    "parse_server",
]

del httpx, websockets
