"""Subscribers that only receive.

Reads ``{"port", "key", "subscribers"}``; writes ``{"connected"}``; ends with its stdin.
"""

from __future__ import annotations

import uvloop

from benchmarks.load.devices import Client, command, connect_all, tell


async def main() -> None:
    order = await command()
    clients = [(Client(), order["key"]) for _ in range(order["subscribers"])]
    tell({"connected": len(await connect_all(order["port"], "/api/v2/notify", clients))})
    await command()


if __name__ == "__main__":
    uvloop.run(main())
