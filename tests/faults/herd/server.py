"""A server with devices, whose tokens it writes.

    python server.py STORE DEVICES

One line of JSON: the port, a key, and the tokens.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

import trio

from mdashcore.server.config import ServerConfig
from mdashcore.server.run import serve


async def main(store: str, number: int) -> None:
    async def started(server: Any) -> None:
        hub = server.service.hub
        await hub.accounts.register("alice", "no password")
        key = (await hub.accounts.create_key("alice")).secret
        tokens: list[str] = []

        async def register(ids: list[str]) -> None:
            while ids:
                tokens.append((await hub.create_device("alice", ids.pop())).token)

        ids = [f"d{place}" for place in range(number)]
        async with trio.open_nursery() as nursery:
            for _ in range(32):  # a store that commits in groups is several times as fast
                nursery.start_soon(register, ids)
        print(json.dumps({"port": server.port, "key": key, "tokens": tokens}), flush=True)  # noqa: T201

    await serve(ServerConfig(bind="127.0.0.1:0", store=store), on_start=started)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=logging.WARNING)
    trio.run(main, sys.argv[1], int(sys.argv[2]))
