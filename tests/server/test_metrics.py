"""``/metrics``, for Prometheus: what a server does is counted rightly, and shown to clients that may read it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing
from prometheus_client.openmetrics import parser as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from mdash_backends.memory import open_memory
from mdashcore._errors import StorageError
from mdashcore.server.config import ServerConfig
from mdashcore.server.http import accept
from mdashcore.server.metrics.measured_store import measure_backend
from mdashcore.server.metrics.registry import NOTIFICATIONS
from mdashcore.server.run import open_server
from mdashcore.storage import INSTANT
from mdashcore.trio.connections.user_calls import UserCalls

TOKEN = "a token of enough characters"[:24].replace(" ", "-")

OPEN_METRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"


@pytest.fixture
def configured() -> dict[str, Any]:
    """Metrics at an address of their own."""
    return {"metrics_bind": "127.0.0.1:0"}


@pytest.fixture
async def scrape(server: Any) -> AsyncIterator[Any]:
    """Reads all samples: a number by name and labels, ``{"mdash_calls_total outcome=ok": 1.0}``."""
    async with httpx.AsyncClient() as client:

        async def read() -> dict[str, float]:
            answer = await client.get(server.metrics_url)
            assert answer.status_code == 200
            return samples(answer.text)

        yield read


def samples(text: str) -> dict[str, float]:
    """The samples of a text, which a parser of Prometheus' own reads."""
    return {
        " ".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What has grown, and by how much."""
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


@pytest.mark.parametrize("configured", [{}], ids=["off"])
async def test_off_unless_configured(server: Any, anyone: httpx.AsyncClient) -> None:
    """Nothing is served, and nothing is measured."""
    assert (await anyone.get(f"{server.url}/metrics")).status_code == 404
    assert type(server.service.node.user_calls) is UserCalls
    assert server.service.hub.backend.documents.__class__.__name__ == "MemoryDocuments"


@pytest.mark.parametrize("configured", [{"metrics_token": TOKEN, "root_path": "/mdash"}], ids=["token"])
@pytest.mark.parametrize("settings", [None], ids=["configured"])
async def test_with_a_token(server: Any, alice: Any, anyone: httpx.AsyncClient) -> None:
    """On the port of the server, to clients with the token; an API key is none."""
    url = f"{server.url}/metrics"
    right = {"Authorization": f"Bearer {TOKEN}"}
    for headers, status in (
        ({}, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Bearer {alice.key}"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer \xff"}, 401),
        (right, 200),
    ):
        answer = await anyone.get(url, headers={name: value.encode("latin-1") for name, value in headers.items()})
        assert (headers, answer.status_code) == (headers, status)
    assert TOKEN not in repr(ServerConfig(metrics_token=TOKEN))
    assert (await anyone.head(url, headers=right)).text == ""
    assert (await anyone.post(url, headers=right)).status_code == 405
    assert (await anyone.get(url.replace("/mdash", ""), headers=right)).status_code == 404


async def test_at_an_address_of_its_own(server: Any, alice: Any, anyone: httpx.AsyncClient) -> None:
    """There and not on the port of the server. Beside them only the probes are served there, to whichever key."""
    await alice.register("d1")
    at = server.metrics_url.removesuffix("/metrics")
    assert (await anyone.get(server.metrics_url)).status_code == 200
    assert (await anyone.get(f"{server.url}/metrics")).status_code == 404
    for path in ("/", "/api/v2/devices/d1/shadow", "/api/v2/devices", "/api/v2/rpc", "/livez/", "/ui/"):
        assert (path, (await alice.http.get(at + path)).status_code) == (path, 404)
    for path in ("/livez", "/readyz", "/healthz"):
        there, here = await anyone.get(at + path), await anyone.get(server.url + path)
        assert (there.status_code, there.json()) == (here.status_code, here.json()) == (200, here.json())


async def test_both_formats(server: Any, anyone: httpx.AsyncClient) -> None:
    """By `Accept`; each is read by a strict parser, and they have the same metrics."""
    text = await anyone.get(server.metrics_url)
    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    opened = await anyone.get(server.metrics_url, headers={"Accept": OPEN_METRICS})
    assert opened.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = {family.name: family for family in open_metrics.text_string_to_metric_families(opened.text)}
    assert {family.name for family in text_string_to_metric_families(text.text)} == set(families)
    for name in ("mdash_calls", "mdash_store_duration_seconds", "process_cpu_seconds", "mdash_connections"):
        assert name in families
    assert "_created" not in text.text + opened.text
    assert all(family.documentation.endswith(".") for name, family in families.items() if name.startswith("mdash_"))


async def test_calls(scrape: Any, alice: Any) -> None:
    """Each by its outcome; the time of those that the device has answered."""
    async with await alice.connect("d1") as device:
        before = await scrape()
        async with alice.calling("POST", "/devices/d1/rpc/Echo") as response:
            await device.reply(await device.expect("Echo"), True)
            assert (await response()).status_code == 200
        async with alice.calling("POST", "/devices/d1/rpc/Echo") as response:
            await device.reply_error(await device.expect("Echo"), -1, "no")
            assert (await response()).status_code == 422
        assert (await alice.http.post("/devices/d1/rpc/Never?timeout=0.05")).status_code == 504
        assert (await alice.http.post("/devices/d1/rpc/Echo", content="x" * 200)).status_code == 400
        await alice.register("away")
        assert (await alice.http.post("/devices/away/rpc/Echo")).status_code == 503
        found = grown(before, await scrape())
    outcomes = {name.partition("=")[2]: value for name, value in found.items() if name.startswith("mdash_calls_total")}
    assert outcomes == {"ok": 1, "error": 1, "timeout": 1, "offline": 1}
    assert found["mdash_call_duration_seconds_count"] == 2
    assert found["mdash_http_responses_total status=422"] == 1


async def test_reports_notifications_and_connections(scrape: Any, alice: Any) -> None:
    """Whatever a device sends makes no new series."""
    before = await scrape()
    async with await alice.connect("d1") as device, alice.listen():
        for request in (
            {"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"t": 1}}}, "id": 1},
            {"method": 'Odd"\n.Name', "params": {}},
            {"method": "online", "params": {}},
            {"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"t": 2}, "desired": {"u": 1}}}, "id": 2},
        ):
            await device.send(request)
        while (await device.receive()).get("id") != 2:
            pass
        after = await scrape()
        found = grown(before, after)
        assert after["mdash_connections kind=device"] == after["mdash_connections kind=subscriber"] == 1
    assert found["mdash_shadow_updates_total section=reported"] == 2
    assert found["mdash_shadow_updates_total section=desired"] == 1
    assert found["mdash_notifications_total kind=online"] == 1
    assert found["mdash_notifications_total kind=rpc.out"] == 2
    kinds = {name.partition("=")[2] for name in after if name.startswith("mdash_notifications_total ")}
    assert kinds == {*NOTIFICATIONS, "other"}
    assert "d1" not in str(after)


async def test_a_scrape_is_answered_when_descriptors_are_short(
    server: Any, scrape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics are what an operator looks at then: a stranger on the port of the server makes room for them."""
    strangers = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(3)]
    while (await scrape())["mdash_connections kind=http"] < len(strangers) + 1:
        pass
    monkeypatch.setattr(accept, "_is_of_the_last", lambda stream: True)
    async with httpx.AsyncClient() as newcomer:
        assert (await newcomer.get(server.metrics_url)).status_code == 200
    monkeypatch.undo()
    async with trio.open_nursery() as nursery:

        async def read(stranger: trio.SocketStream) -> None:
            assert await stranger.receive_some() == b""
            nursery.cancel_scope.cancel()

        for stranger in strangers:
            nursery.start_soon(read, stranger)
    for stranger in strangers:
        await stranger.aclose()


async def test_the_queues(scrape: Any, alice: Any, server: Any) -> None:
    """Updates that wait for another one of their shadow, and frames for a device that does not read, are counted."""
    async with await alice.connect("d1"):
        node = server.service.node
        (connected,) = node.devices.values()
        turns = node.hub.shadows._turns
        assert turns.acquire_nowait("shadow")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.acquire, "shadow", 60.0)
            await trio.testing.wait_all_tasks_blocked()
            connected.link.connection.notify("Log", b'"x"')  # without the link, which would send it
            seen = {name: value for name, value in (await scrape()).items() if "queue" in name or "outbox" in name}
            nursery.cancel_scope.cancel()
    assert seen["mdash_writer_queue_length"] == 1
    assert seen["mdash_outbox_bytes peer=device"] == len('{"jsonrpc":"2.0","method":"Log","params":"x"}')
    assert seen["mdash_outbox_bytes peer=server"] == 0
    assert seen["mdash_turn_queue_length"] == 0


async def test_the_store(scrape: Any, alice: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of each verb; failures and conflicts apart."""
    before = await scrape()
    await alice.register("d1")
    inner = server.service.hub.backend.documents._inner

    async def fail(*_: Any, **__: Any) -> None:
        raise StorageError("away")

    monkeypatch.setattr(inner, "get", fail)
    assert (await alice.http.get("/devices/d1")).status_code == 503
    monkeypatch.undo()
    found = grown(before, await scrape())
    assert found["mdash_store_duration_seconds_count store=documents verb=put"] >= 2
    assert found["mdash_store_duration_seconds_count store=logs verb=append"] >= 1
    assert found["mdash_store_errors_total store=documents verb=get"] >= 1
    assert not any(name.startswith("mdash_store_errors_total store=logs") for name in found)


async def test_refusals_and_the_log(scrape: Any, alice: Any, anyone: httpx.AsyncClient, server: Any) -> None:
    """A refusal by the name of its limit, a line of the log by its level, a failed login."""
    before = await scrape()
    server.service.node.subscribers._most = 0
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    assert (await alice.http.get("/notify", headers={**handshake, **key})).status_code == 429
    assert (await anyone.get("/me", auth=("alice", "wrong"))).status_code == 401
    logging.getLogger("mdashcore.test").error("an error")
    found = grown(before, await scrape())
    assert found["mdash_refusals_total limit=subscribers"] == 1
    assert found["mdash_http_responses_total status=429"] >= 1
    assert found["mdash_log_lines_total level=error"] == 1
    assert found["mdash_failed_logins_total event=failed"] == 1


async def test_a_measured_store_is_a_store() -> None:
    """It has all that the other has, and takes no part of it away."""
    calls: list[tuple[str, str]] = []

    def measure(store: str, verb: str) -> Any:
        return lambda seconds, error: calls.append((store, verb))

    async def put_and_append(*args: Any, **options: Any) -> tuple[int, int]:
        return 2, 0

    async with open_memory("memory://") as opened:
        inner = attrs.evolve(opened, put_and_append=put_and_append)
        backend = measure_backend(inner, measure)
        assert backend.capabilities == inner.capabilities - {INSTANT}
        assert (backend.check, backend.free_bytes) == (inner.check, inner.free_bytes)
        assert await backend.documents.put("c", "k", b"{}", expected=0) == 1
        assert [document.key async for document in backend.documents.scan("c")] == ["k"]
        assert backend.put_and_append is not None
        both = {"expected": 1, "log": "l", "time": 1.0, "entry": b"{}"}
        assert await backend.put_and_append("c", "k", b"{}", **both) == (2, 0)
        async with backend.bus.subscribe("t") as messages:
            await backend.bus.publish("t", b"m")
            assert await anext(messages) == b"m"

        async def chunks() -> AsyncIterator[bytes]:
            yield b"blob"

        assert await backend.blobs.put("b", chunks()) == 4
        assert await backend.blobs.read("b", 1, 2) == b"lo"
    assert calls == [("documents", "put"), ("documents", "put_and_append"), ("bus", "publish"), ("blobs", "read")]


async def test_wrong_addresses_are_refused() -> None:
    """At the start, as for the server's own."""
    for bind in ("nowhere", "127.0.0.1:70000"):
        with pytest.raises(Exception, match="HOST:PORT"):
            async with open_server(ServerConfig(bind="127.0.0.1:0", store="memory://", metrics_bind=bind)):
                pass
    for token in ("short", "with spaces in between", "0123456789abcdef0123456789abcdef\n", "é" * 20, 54321):
        with pytest.raises(ValueError, match="metrics_token") as wrong:
            ServerConfig(metrics_token=token)
        assert str(token) not in str(wrong.value)  # it goes into the log of the service
