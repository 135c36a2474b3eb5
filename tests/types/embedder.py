"""What embedders write, for type checkers: `tests/docs/test_types.py` has mypy and pyright look at it, strictly.

Nothing here is run. A line that has to be an error has a comment that ignores it, and a comment that ignores nothing is
an error too.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, assert_type

import attrs
import hypercorn.trio
import trio
from hypercorn.config import Config
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from hypercorn.typing import Scope as HypercornScope

from mdashcore import (
    Connection,
    ConnectionLimits,
    MdashError,
    RequestReceived,
    ResponseReceived,
    RpcError,
    Shadow,
    jsonrpc,
    ota,
    storage,
)
from mdashcore.hub import (
    AccountLimits,
    CreatedDevice,
    Device,
    DeviceCaller,
    DeviceKey,
    DeviceSession,
    FeedItem,
    Hub,
    HubObserver,
    LogQuery,
)
from mdashcore.server.app import create_app
from mdashcore.server.config import ServerConfig, ServerLimits, User
from mdashcore.server.gateway import Gateway
from mdashcore.server.run import open_server
from mdashcore.server.service import Service, ServiceSettings
from mdashcore.shadow import Change, JsonObject
from mdashcore.trio.agent import Agent, Backoff, open_agent
from mdashcore.trio.node import Node, NodeSettings, open_node


class Revocations(HubObserver):
    """Overrides what concerns it, and nothing else."""

    def device_revoked(self, key: DeviceKey) -> None:
        assert_type(key.id, str)


class Everything:
    """An observer need not be a subclass."""

    def shadow_changed(self, key: DeviceKey, change: Change) -> None: ...
    def device_revoked(self, key: DeviceKey) -> None: ...
    def notified(self, account: str, item: FeedItem) -> None: ...
    def build_reported(self, key: DeviceKey, build: ota.Build) -> None: ...
    def device_removed(self, key: DeviceKey, node: str | None) -> None: ...
    def key_revoked(self, account: str, key: str | None) -> None: ...


class Half:
    """But has to be a whole one."""

    def device_revoked(self, key: DeviceKey) -> None: ...


def observe(hub: Hub) -> None:
    hub.add_observer(Revocations())
    hub.add_observer(Everything())
    hub.add_observer(Half())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def values() -> None:
    shadow = Shadow(desired={"on": True}, reported=None, version=3)
    shadow, change = shadow.update({"state": {"reported": {"on": True}}}, now=time.time())
    assert_type(change.delta, JsonObject | None)
    Shadow(desired=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    image = ota.UpdateImage("fw.zip", 10, "00")
    update = ota.Update.queued("u", image, now=time.time(), options=ota.Options(force=True))
    update = ota.advance(update, ota.Started(None), now=time.time())
    ota.advance(update, ota.Started, now=time.time())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(attrs.evolve(update, reason=""), ota.Update)


def converse(connection: Connection) -> None:
    connection = Connection(ConnectionLimits(max_calls=5))
    for frame in ("{}", b"{}", bytearray(b"{}"), memoryview(b"{}")):
        connection.receive_data(frame)
    connection.receive_data(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    id = connection.call("Sys.GetInfo", {"a": 1}, deadline=time.monotonic() + 5)
    assert_type(id, int)
    connection.call(b"Sys.GetInfo")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for event in connection.events():
        if isinstance(event, RequestReceived):
            connection.reply(event.ref, {"ok": True})
            connection.reply_error(event.ref, RpcError(404, "no"))
        elif isinstance(event, ResponseReceived):
            assert_type(event.result, bytes)
    assert_type(connection.data_to_send(), list[bytes])
    assert_type(jsonrpc.dumps({}), bytes)


async def serve_devices(hub: Hub) -> None:
    created = await hub.create_device("home", "lamp")
    assert_type(created, CreatedDevice)
    assert_type(await hub.registry.authenticate(created.token), Device)
    await hub.registry.authenticate(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    session = DeviceSession(hub, DeviceKey("home", "lamp"))
    await session.handle(RequestReceived(1, "M", None), Connection())
    assert_type(await hub.feed.query("home", LogQuery(limit=5)), list[bytes])


async def call_devices(node: Node) -> None:
    caller: DeviceCaller = node.calls
    assert_type(await caller.call(DeviceKey("home", "lamp"), "Sys.GetInfo", timeout=2.0), bytes)


async def be_a_device() -> None:
    async def handle(method: str, params: Any) -> Any:
        return {"method": method, "params": params}

    async with open_agent("ws://127.0.0.1/api/v2/rpc", "mdd_x", handle, backoff=Backoff(first=0.5)) as agent:
        assert_type(agent, Agent)
        await agent.wait_connected()


@asynccontextmanager
async def open_mixed(url: str) -> AsyncGenerator[storage.Backend, None]:
    """A backend of stores from several places."""
    async with storage.open_backend("memory://") as memory, storage.open_backend("file:///blobs") as files:
        yield storage.Backend(memory.documents, memory.logs, files.blobs, memory.bus)


OPENER: storage.BackendOpener = open_mixed


async def hello(scope: HypercornScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """An app with the types of another package."""


async def mount() -> None:
    limits = AccountLimits(devices=5)
    async with storage.open_backend("memory://") as backend:
        hub = Hub(backend, now=time.time, monotonic=time.monotonic, entropy=os.urandom, limits=limits)
        async with open_node(hub, settings=NodeSettings(ping_interval=30)) as node:
            service = Service(node, ServiceSettings(max_body=1000))
            app = create_app(service)
            await hypercorn.trio.serve(app, Config())  # pyright: ignore[reportUnknownMemberType] - of its WSGI
            Gateway(service, app)
            Gateway(service, hello)
            Gateway(service, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def run_it_all() -> None:
    config = ServerConfig(users=(User("admin", "pw", admin=True),), limits=ServerLimits(devices=5))
    async with open_server(config) as server:
        try:
            await server.service.node.calls.call(DeviceKey("admin", "lamp"), "Sys.GetInfo")
        except MdashError as error:
            assert_type(error, MdashError)


trio.run(run_it_all)
