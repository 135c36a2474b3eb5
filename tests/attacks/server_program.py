"""A real server with the default store, in a process of its own, that also says how it is.

Run as ``python server_program.py FOLDER CONFIG``, where CONFIG is a JSON object: `tls` (paths of certificate and key),
`settings` (fields of `ServiceSettings`), `limits` (of `ServerLimits`), `store` (its folder),
`config` (fields of `ServerConfig`), `descriptors` (the process's limit),
`constants` (values by dotted name: durations that a test cannot wait for).
Each line of stdin is a JSON array, a command and its arguments; each line of stdout is the JSON answer.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import trio

from mdashcore.identity import DeviceKey
from mdashcore.server.app import create_app, routes
from mdashcore.server.config import ServerConfig, ServerLimits
from mdashcore.server.run import RunningServer, open_server, serve, tune_interpreter
from mdashcore.server.service import ServiceSettings

SETUP_AT_ONCE = 64  # writes that one commit takes together


class Commands:
    """What a test can have the server do without HTTP: set a scene, and count what is there."""

    def __init__(self, server: RunningServer) -> None:
        self._hub = server.service.hub
        self._service = server.service

    async def account(self, name: str, hashed: str = "-", admin: bool = False) -> str:
        """Make an account: its API key."""
        await self._hub.accounts.register(name, hashed, admin=admin)
        return (await self._hub.accounts.create_key(name)).secret

    async def devices(self, account: str, ids: list[str], reported: Any = None) -> dict[str, str]:
        """Make devices, whose shadows hold `reported` if it is given: their tokens."""
        tokens: dict[str, str] = {}

        async def make(names: list[str]) -> None:
            for id in names:
                tokens[id] = (await self._hub.create_device(account, id)).token
                if reported is not None:
                    await self._hub.shadows.update(DeviceKey(account, id), {"state": {"reported": reported}})

        async with trio.open_nursery() as nursery:
            for start in range(SETUP_AT_ONCE):
                nursery.start_soon(make, ids[start::SETUP_AT_ONCE])
        return tokens

    async def routes(self) -> list[tuple[str, str]]:
        """Method and path of all that it answers."""
        return routes(create_app(self._service))

    async def block(self, seconds: float) -> None:
        """Be a server with a fault: some work never gives way for so long, again and again."""

        async def work() -> None:
            while True:
                end = time.perf_counter() + seconds
                while time.perf_counter() < end:
                    pass
                await trio.lowlevel.checkpoint()

        trio.lowlevel.spawn_system_task(work)

    async def figures(self) -> dict[str, Any]:
        """How many Trio tasks there are, by name."""
        names: Counter[str] = Counter()
        tasks = [trio.lowlevel.current_root_task()]
        while tasks:
            task = tasks.pop()
            if task is not None:
                names[task.name] += 1
                tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        return {"tasks": names}


async def obey(server: RunningServer) -> None:
    """Say where the server is, and carry out commands until stdin ends."""
    commands = Commands(server)
    say({"url": server.url, "device_url": server.device_url, "pid": os.getpid()})
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        data = b""
        async for part in stdin:
            *lines, data = (data + part).split(b"\n")
            for line in lines:
                name, *arguments = json.loads(line)
                say(await getattr(commands, name)(*arguments))


def say(value: Any) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def main(folder: str, options: dict[str, Any]) -> None:
    """Serve until a signal comes."""
    tls = options.get("tls")
    config = ServerConfig(
        bind="127.0.0.1:0",
        store=f"sqlite://{options.get('store', f'{folder}/store')}",
        limits=ServerLimits(**options.get("limits", {})),
        certfile=Path(tls[0]) if tls else None,
        keyfile=Path(tls[1]) if tls else None,
        **options.get("config", {}),
    )
    if "settings" in options:
        tune_interpreter()
        settings = ServiceSettings(max_image=config.max_image, **options["settings"])
        async with open_server(config, settings=settings) as server:
            await obey(server)
            await trio.sleep_forever()
    else:
        await serve(config, on_start=obey)


if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    for name, value in options.get("constants", {}).items():
        module, _, attribute = name.rpartition(".")
        getattr(sys.modules[module], attribute)  # it has to be there
        setattr(sys.modules[module], attribute, value)
    if "descriptors" in options:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["descriptors"],) * 2)
    logging.basicConfig(level=options.get("log_level", "WARNING"), format="%(levelname)s %(name)s: %(message)s")
    trio.run(main, sys.argv[1], options)
