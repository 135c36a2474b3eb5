"""A virtual device on a server: a `VirtualDevice` with an `Agent`."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable
from typing import Any

import trio

from mdashcore._errors import Busy, CallTimeout, DeviceOffline, InvalidAnswer, RpcError, Unauthenticated
from mdashcore.trio.agent import Agent
from mdashcore.trio.background import Backoff
from mdashcore.virtual_device.device import VirtualDevice
from mdashcore.virtual_device.wire import CharacterWire

__all__ = ["run_virtual_device"]

_log = logging.getLogger(__name__)


async def run_virtual_device(
    device: VirtualDevice,
    url: str,
    token: str,
    *,
    name: str = "device",
    ssl_context: ssl.SSLContext | None = None,
    backoff: Backoff = Backoff(),
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Connect a virtual device to a server and keep it connected, until cancelled.

    ::

        async with trio.open_nursery() as nursery:
            device = VirtualDevice("lamp", Path("lamp"))
            await nursery.start(run_virtual_device, device, "ws://127.0.0.1:8080/api/v2/rpc", token)
            ...  # the server shows it as online, with its firmware

    Args:
        device: the device, which no other call runs.
        url: the server's device endpoint, ws or wss.
        token: the device's token.
        name: its name in log lines. Connects, disconnects and requests are logged at INFO.
        ssl_context: the certificates to trust, for wss; by default those of the system.
        backoff: the waits between two tries to connect.
        task_status: reports the start when the server has answered.

    Raises:
        InvalidInput: no device can dial this URL.
        Unauthenticated: the server refuses the token, now or on a later connect.
    """

    async def handle(method: str, params: Any) -> Any:
        _log.info("%s: %s", name, method)
        return await device.handle(method, params)

    def hello() -> Iterable[tuple[str, Any]]:
        _log.info("%s: connected to %s", name, url)
        return device.hello()

    async def notify(method: str, params: Any) -> None:
        try:
            agent.notify(method, params)
        except Busy as exc:
            raise DeviceOffline(str(exc)) from exc  # the link is stuck: notifications that do not fit are dropped

    async def reboot() -> None:
        _log.info("%s: rebooting", name)
        agent.disconnect("rebooting")

    agent = Agent(
        url,
        token,
        handle,
        on_notification=device.on_notification,
        hello=hello,
        ssl_context=ssl_context,
        backoff=backoff,
        wire=CharacterWire(device.character),
    )
    refused = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.run, notify, reboot)
            nursery.start_soon(_announce, agent, device.character.can_talk, task_status)
            await agent.run()
    except* Unauthenticated:
        refused = True
    if refused:  # here, because an error raised inside `except*` comes as a group
        raise Unauthenticated("the server refuses the token")


async def _announce(agent: Agent, can_talk: bool, task_status: trio.TaskStatus[None]) -> None:
    """Report the start after the server has answered: then it has also processed the device's introduction."""
    while True:
        await agent.wait_connected()
        if not can_talk:
            task_status.started()
            return
        try:
            await agent.call("Dash.Shadow.Get")
        except (CallTimeout, DeviceOffline):
            continue
        except (RpcError, InvalidAnswer):
            pass  # not every server knows the method; but this one has answered
        task_status.started()
        return
