"""The immediate mode: what is special about requests that are answered without a task, on real connections."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from rows import every_row
from websockets.frames import Frame, Opcode

from mdashcore._errors import TooLarge
from mdashcore.identity import DeviceKey
from mdashcore.notifications import decode
from mdashcore.server.gateway import HEAD_TIMEOUT, KEEP_ALIVE
from mdashcore.server.http.hangup import HALF_CLOSED_TIME
from mdashcore.server.immediate.calls import begin_call
from mdashcore.server.immediate.coroutines import run_now
from mdashcore.server.run import RunningServer
from mdashcore.trio.connections.calls import MAX_PARAMS
from mdashcore.trio.connections.link import Link
from mdashcore.trio.node import NodeSettings
from mdashcore.trio.transport.stream import SEND_TIMEOUT


@pytest.fixture(params=["immediate", "by a task"])
def instant(request: pytest.FixtureRequest) -> bool:
    """All is the same where the store may have to be waited for."""
    return bool(request.param == "immediate")


@pytest.fixture
def node_settings() -> NodeSettings:
    """The node sends a device no pings, and does not ask what it runs, while a test goes on."""
    return NodeSettings(introduction_delay=10_000, ping_interval=10_000)


@pytest.fixture
def calls(server: RunningServer) -> Callable[[], int]:
    """How many calls of d1 are waited for."""

    def count() -> int:
        link = server.service.node.devices.link(DeviceKey("alice", "d1"))
        assert isinstance(link, Link)
        assert len(link._callers) == len(link.connection._calls)
        return len(link._callers)

    return count


def call(key: str, body: bytes = b"[1]", *, timeout: float | None = None, method: str = "Echo") -> bytes:
    """A plain call of d1."""
    query = "" if timeout is None else f"?timeout={timeout}"
    head = f"POST /api/v2/devices/d1/rpc/{method}{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def shadow(key: str) -> bytes:
    """A plain request for d1's shadow."""
    return f"GET /api/v2/devices/d1/shadow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


async def ask_without_reading(raw: Any, key: str) -> None:
    """Until the server has had enough of it."""
    while True:
        await raw.send(shadow(key))
        await trio.testing.wait_all_tasks_blocked(0.001)


# Connections


async def test_requests_behind_a_call_are_answered_behind_it(
    server: RunningServer, open_raw: Any, alice: Any, device: Any
) -> None:
    """In one packet with it or after it, in their order."""
    for apart in (False, True):
        async with open_raw(server) as raw:
            await raw.send(call(alice.key, b"1"))
            first = await device.expect("Echo")
            if apart:
                await raw.send(shadow(alice.key))
                await raw.send(call(alice.key, b"2")[:50])
                await raw.send(call(alice.key, b"2")[50:])
            else:
                await raw.send(shadow(alice.key) + call(alice.key, b"2"))
            await device.reply(first, "one")
            assert (await raw.response()).body == b'"one"'
            assert "metadata" in json.loads((await raw.response()).body)
            await device.reply(await device.expect("Echo"), "two")
            assert (await raw.response()).body == b'"two"'


async def test_a_client_that_leaves_is_not_waited_for(
    server: RunningServer,
    open_raw: Any,
    alice: Any,
    device: Any,
    calls: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its call is forgotten soon, also where it had asked for more meanwhile."""
    abandon = Link.abandon
    for more in (b"", b"G", shadow(alice.key)):
        abandoned = trio.Event()

        def abandon_and_tell(link: Link, id: int, event: trio.Event = abandoned) -> None:
            abandon(link, id)
            event.set()

        monkeypatch.setattr(Link, "abandon", abandon_and_tell)
        async with open_raw(server) as raw:
            await raw.send(call(alice.key, timeout=100))
            request = await device.expect("Echo")
            await raw.send(more) if more else None
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert calls() == 1
        with trio.fail_after(4 * HALF_CLOSED_TIME):
            await abandoned.wait()
        assert calls() == 0
        await device.reply(request, "too late")


async def test_a_call_that_cannot_be_made_is_not_shown(
    server: RunningServer, alice: Any, device: Any, calls: Callable[[], int]
) -> None:
    """Such as one whose params fit into a frame only without the envelope."""
    key, body = DeviceKey("alice", "d1"), b'"%b"' % (b"x" * (MAX_PARAMS - 2))
    with pytest.raises(TooLarge):
        await begin_call(server.service, key, "Echo", body, None, lambda outcome: None)
    call = await begin_call(server.service, key, "Echo", b"[1]", None, lambda outcome: None)
    assert call is not None
    call.abandon()
    assert calls() == 0
    shown = [decode(item.frame) for item in await server.service.hub.feed.page("alice", 0)]
    assert [each["data"] for each in shown if each["name"] == "rpc.in.Echo"] == [[1]]


async def test_a_revoked_key_opens_nothing(server: RunningServer, open_raw: Any, alice: Any, device: Any) -> None:
    """From the next request on, on a connection that it was valid on."""
    hub = server.service.hub
    async with open_raw(server) as raw:
        await raw.send(shadow(alice.key))
        assert (await raw.response()).status == 200
        (key,) = await hub.accounts.keys("alice")
        await hub.accounts.remove_key("alice", key.id)
        await raw.send(shadow(alice.key))
        assert (await raw.response()).status == 401


# Devices


async def test_a_device_that_goes_ends_its_calls(server: RunningServer, open_raw: Any, alice: Any, device: Any) -> None:
    """Each is answered, and the connections go on."""
    async with open_raw(server) as one, open_raw(server) as two:
        for raw in (one, two):
            await raw.send(call(alice.key))
            await device.expect("Echo")
        server.service.node.device_revoked(DeviceKey("alice", "d1"))
        for raw in (one, two):
            assert (await raw.response()).status == 503
            await raw.send(shadow(alice.key))
            assert (await raw.response()).status == 200


@every_row(
    "error",
    [
        '{"code":1e300,"message":"x"}',
        '{"code":-99999999999999999999999999,"message":"x"}',
        '{"code":1,"message":"\\ud800"}',
        '{"code":1,"message":"x","data":1e400}',
        '{"code":NaN}',
        "1",
        '""',
        "[[]]",
        '{"code":null,"message":null}',
    ],
)
async def test_no_error_of_a_device_ends_its_connection(
    server: RunningServer, open_raw: Any, alice: Any, device: Any, error: str
) -> None:
    """Whatever it raises: another client's request is answered, and the next one, too."""
    async with open_raw(server) as raw:
        await raw.send(call(alice.key))
        request = await device.expect("Echo")
        await device.ws.send_message(f'{{"id":{request["id"]},"error":{error}}}')
        broken = "NaN" in error or "ud800" in error  # it is no JSON, but whose answer it is can be read
        assert (await raw.response()).status == (502 if broken else 422)
        await raw.send(call(alice.key))
        await device.reply(await device.expect("Echo"), 1)
        assert (await raw.response()).body == b"1"


async def test_a_device_that_floods_is_answered_in_order(alice: Any, device: Any) -> None:
    """However many requests come in one packet, of whatever kind."""
    calls = []
    for number in range(60):
        method = ["Dash.Shadow.Get", "No.Such", "Dash.Shadow.Update"][number % 3]
        calls.append({"id": number, "method": method, "params": {"state": {"reported": {"n": number}}}})
    stream = device.ws._stream
    async with alice.listen() as ear:
        async with trio.open_nursery() as nursery:
            frames = b"".join(_masked(json.dumps(each).encode()) for each in calls)
            nursery.start_soon(stream.send_all, frames)
            ids = [(await device.receive())["id"] for _ in calls]
        assert ids == list(range(60))
        heard = [await ear.expect("updated", "d1") for _ in range(20)]
        assert [each["data"]["shadow"]["state"]["reported"]["n"] for each in heard] == list(range(2, 60, 3))


def _masked(text: bytes) -> bytes:
    return Frame(Opcode.TEXT, text).serialize(mask=True)


async def test_a_defect_in_a_handler_ends_one_connection(
    server: RunningServer, alice: Any, device: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; other devices go on."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with await alice.connect("d2") as other:
        await alice.told("online", "d2")
        with monkeypatch.context() as patch:
            patch.setattr(server.service.hub.shadows, "get", fail)
            await device.send({"id": 1, "method": "Dash.Shadow.Get"})
            assert await alice.told("offline", "d1")
        assert "ZeroDivisionError" in caplog.text
        caplog.clear()
        await other.send({"id": 1, "method": "Dash.Shadow.Get"})
        assert (await other.receive())["result"] == {}


# Time


async def test_each_call_has_its_own_time(
    autojump_clock: Any, server: RunningServer, open_raw: Any, alice: Any, device: Any, calls: Callable[[], int]
) -> None:
    """Shorter ones after longer ones, and longer than an idle connection is kept; a late answer is ignored."""
    autojump_clock.autojump_threshold = 0.02
    async with open_raw(server, patience=200) as raw:
        late = []
        for seconds in (KEEP_ALIVE + 2, 1, 2, 0.5):
            started = trio.current_time()
            await raw.send(call(alice.key, timeout=seconds))
            late.append(await device.expect("Echo"))
            answer = await raw.response()
            assert answer.status == 504
            assert trio.current_time() - started == pytest.approx(seconds, abs=0.3)
            assert calls() == 0
        for request in late:
            await device.reply(request, "late")
        await raw.send(call(alice.key, timeout=3))
        await device.reply(await device.expect("Echo"), "in time")
        assert (await raw.response()).body == b'"in time"'
        started = trio.current_time()
        assert await raw.rest() == b""
        assert trio.current_time() - started == pytest.approx(KEEP_ALIVE, abs=2)


async def test_a_connection_that_never_asks(autojump_clock: Any, server: RunningServer, open_raw: Any) -> None:
    """It has less time."""
    autojump_clock.autojump_threshold = 0.02
    async with open_raw(server, patience=200) as raw:
        started = trio.current_time()
        assert await raw.rest() == b""
        assert trio.current_time() - started == pytest.approx(HEAD_TIMEOUT, abs=2)


async def test_a_client_that_reads_nothing_is_cut_off(
    autojump_clock: Any, server: RunningServer, open_raw: Any, alice: Any, device: Any
) -> None:
    """When what it was sent has filled what the system keeps for it, and nothing went on for a while."""
    autojump_clock.autojump_threshold = 0.02
    await alice.http.post("/devices/d1/shadow", json={"state": {"desired": {"x": "y" * 8000}}})
    async with open_raw(server, patience=200) as raw:
        started = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await ask_without_reading(raw, alice.key)
        assert trio.current_time() - started == pytest.approx(SEND_TIMEOUT, abs=2)


# Fairness


async def test_many_requests_in_one_packet_delay_no_other_client(
    server: RunningServer, open_raw: Any, alice: Any, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have their turns between the answers."""
    turn = 0
    turns: set[int] = set()
    get = server.service.hub.shadows.get

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await trio.lowlevel.checkpoint()

    async def get_and_note(key: DeviceKey) -> Any:
        turns.add(turn)
        return await get(key)

    monkeypatch.setattr(server.service.hub.shadows, "get", get_and_note)
    async with open_raw(server) as raw, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await raw.send(shadow(alice.key) * 60)
        for _ in range(60):
            assert (await raw.response()).status == 200
        nursery.cancel_scope.cancel()
    assert len(turns) > 20


async def test_listeners_hear_everything_once_and_in_order(
    server: RunningServer, alice: Any, device: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that does not read for a while, until the system keeps no more for it."""
    caplog.set_level(logging.WARNING)
    total = 400
    async with alice.listen() as quick, alice.listen() as slow, trio.open_nursery() as nursery:

        async def speak() -> None:
            for number in range(total):
                await device.send({"method": "Big", "params": {"n": number, "x": "y" * 20_000}})

        async def hear(ear: Any) -> None:
            heard = [(await ear.expect("rpc.out.Big", "d1"))["data"]["n"] for _ in range(total)]
            assert heard == list(range(total))

        nursery.start_soon(speak)
        await hear(quick)
        await hear(slow)


# Running without a task


async def _returns() -> int:
    return 1


async def _raises() -> int:
    raise KeyError(1)


def test_what_waits_for_nothing_runs_without_a_task() -> None:
    """Its result is returned, its error raised."""
    assert run_now(_returns()) == 1
    with pytest.raises(KeyError):
        run_now(_raises())


@pytest.mark.parametrize(
    "wait",
    [
        trio.lowlevel.checkpoint,
        trio.sleep_forever,
        lambda: trio.Event().wait(),
    ],
)
async def test_what_does_wait_is_told_so(wait: Callable[[], Awaitable[None]]) -> None:
    """Its scopes are left, and what it waited for does not find anyone."""
    cleaned = False

    async def run() -> None:
        nonlocal cleaned
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1000):
                await wait()
        finally:
            cleaned = True

    with pytest.raises(RuntimeError, match="instant"):
        run_now(run())
    assert cleaned
    await trio.lowlevel.checkpoint()


async def test_no_task_is_woken_for_what_has_waited() -> None:
    """An event, set later, must not wake the task in whose name it was waited for."""
    event = trio.Event()
    with pytest.raises(RuntimeError, match="instant"):
        run_now(event.wait())
    assert event.statistics().tasks_waiting == 0
    event.set()
    with trio.move_on_after(0.05) as timer:
        await trio.sleep_forever()
    assert timer.cancelled_caught
