"""The measured server: all of it, as ``mdash serve --store URL`` runs it, with devices registered.

    python -m benchmarks._service [--devices N] [--account NAME] [--store URL] [--slow-lane]

Writes one line of JSON when it accepts connections: ``{"port", "key", "devices": [[id, token], …]}``. Runs until it is
killed. Several on one store have accounts of their own, and each serves the devices of all.
"""

from __future__ import annotations

import argparse
import json

import trio

from mdashcore.cli.process import set_up_process
from mdashcore.hub import Hub
from mdashcore.server.config import ServerConfig, ServerLimits
from mdashcore.server.run import open_server, tune_interpreter
from mdashcore.server.service import ServiceSettings

SUBSCRIBERS = 2_000  # more than a benchmark has; an account may have 200 by default
AT_ONCE = 32  # devices that are registered at the same time


async def register(hub: Hub, account: str, ids: list[str]) -> list[tuple[str, str]]:
    """Create devices, some at the same time, because a disk takes milliseconds for each. Returns ids and tokens."""
    tokens: dict[str, str] = {}
    waiting = iter(ids)

    async def work() -> None:
        for id in waiting:
            tokens[id] = (await hub.create_device(account, id)).token

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(work)
    return [(id, tokens[id]) for id in ids]


async def serve(devices: int, account: str, settings: ServiceSettings, store: str) -> None:
    """Serve until killed."""
    limits = ServerLimits(subscribers=SUBSCRIBERS)
    config = ServerConfig(bind="127.0.0.1:0", store=store, limits=limits)
    async with open_server(config, settings=settings) as server:
        hub = server.service.hub
        await hub.accounts.register(account, "no hash: nobody logs in with a password")
        key = (await hub.accounts.create_key(account)).secret
        tokens = await register(hub, account, [f"d{n}" for n in range(devices)])
        tune_interpreter()
        print(json.dumps({"port": server.port, "key": key, "devices": tokens}), flush=True)
        await trio.sleep_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--account", default="benchmark", metavar="NAME")
    parser.add_argument("--slow-lane", action="store_true", help="have Hypercorn answer every request")
    parser.add_argument("--store", default="memory://", metavar="URL")
    arguments = parser.parse_args()
    set_up_process("info")
    settings = ServiceSettings(fast_lane=not arguments.slow_lane)
    trio.run(serve, arguments.devices, arguments.account, settings, arguments.store)


if __name__ == "__main__":
    main()
