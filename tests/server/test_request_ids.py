"""Each request has an id: in its answer, whichever lane gives it, and in the lines that are logged for it."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from mdashcore._errors import StorageError
from mdashcore.cli.log_format import TextFormatter
from mdashcore.server.app import create_app
from mdashcore.server.http import request_id
from mdashcore.server.service import ServiceSettings
from mdashcore.testing.device import connect_device

pytestmark = pytest.mark.every_lane

BEHIND_PROXY = {"trusted_proxies": ("127.0.0.1",), "forwarded_header": "X-Forwarded-For"}

OURS = re.compile(r"[0-9a-f]{16}")


@pytest.fixture
def settings(lane: str, request: Any) -> ServiceSettings:
    """The lane's, and those of the test."""
    return ServiceSettings(fast_lane=lane != "slow lane", **getattr(request, "param", {}))


@pytest.fixture
def lines() -> Iterator[Any]:
    """The lines that a server logs, as `mdash serve` writes them."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(TextFormatter(request_id.current.get))
    logger = logging.getLogger("mdashcore")
    logger.addHandler(handler)
    yield lambda: written.getvalue().splitlines()
    logger.removeHandler(handler)


def head(line: str, *fields: str) -> bytes:
    """A request without a body."""
    return "\r\n".join([line, "Host: x", *fields, "", ""]).encode()


SHADOW = "GET /api/v2/devices/d1/shadow HTTP/1.1"

REQUESTS = {
    "a shadow": (SHADOW, 200),
    "a call of an absent device": ("POST /api/v2/devices/d1/rpc/Echo HTTP/1.1", 503),
    "a list": ("GET /api/v2/devices HTTP/1.1", 200),
    "the page": ("GET /ui/index.html HTTP/1.1", 200),
    "health": ("GET /readyz HTTP/1.1", 200),
    "an unknown path": ("GET /nowhere HTTP/1.1", 404),
    "another version": ("GET / HTTP/2.0", 505),
    "no request": ("x", 400),
}


async def test_every_answer_has_an_id(server: Any, open_raw: Any, alice: Any) -> None:
    """Another one for each request of a connection; refusals and handshakes have one too."""
    token = await alice.register("d1")
    ids = []
    for name, (line, status) in REQUESTS.items():
        async with open_raw(server) as raw:
            for _ in range(2 if status < 400 else 1):
                await raw.send(head(line, f"Authorization: Bearer {alice.key}"))
                answer = await raw.response()
                assert (name, answer.status) == (name, status)
                ids.append(answer.headers["x-request-id"])
    for secret, fields, status in ((token, (), 101), ("mdd_wrong", (), 401), (token, ("X: y",) * 100, 431)):
        async with open_raw(server) as raw:
            answer = await raw.handshake(secret, *fields)
            assert answer.status == status
            ids.append(answer.headers["x-request-id"])
    assert all(map(OURS.fullmatch, ids))
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("settings", "trusted"), [({}, False), (BEHIND_PROXY, True)], indirect=["settings"], ids=["stranger", "proxy"]
)
async def test_a_trusted_proxy_gives_ids(server: Any, open_raw: Any, alice: Any, trusted: bool) -> None:
    """One of the right form is taken over; any other value, and any of a stranger, is not."""
    token = await alice.register("d1")
    longest = "a" * 64
    for fields, given in {
        ("X-Request-Id: Proxy-1",): "Proxy-1",
        (f"x-request-id:{longest} ",): longest,
        (f"X-Request-Id: {longest}a",): None,
        ("X-Request-Id: a_b",): None,
        ("X-Request-Id: a b",): None,
        ("X-Request-Id:",): None,
        ("X-Request-Id: a", "X-Request-Id: b"): None,
        ("X: y", "Y-X-Request-Id: a"): None,
    }.items():
        for line in (SHADOW, "GET /healthz HTTP/1.1", "GET /nowhere HTTP/1.1"):
            async with open_raw(server) as raw:
                await raw.send(head(line, f"Authorization: Bearer {alice.key}", *fields))
                id = (await raw.response()).headers["x-request-id"]
                assert OURS.fullmatch(id) if given is None or not trusted else id == given
    async with open_raw(server) as raw:
        answer = await raw.handshake(token, "X-Request-Id: Proxy-2")
        assert (answer.headers["x-request-id"] == "Proxy-2") is trusted


async def test_lines_of_a_request_have_its_id(
    server: Any, open_raw: Any, alice: Any, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the lane without a task, and none is left for what is logged later."""
    token = await alice.register("d1")

    async def fail(*_: Any) -> None:
        raise StorageError("away")

    monkeypatch.setattr(server.service.hub.registry, "get", fail)
    async with open_raw(server) as raw:
        for line in (SHADOW, "GET /api/v2/devices/d1 HTTP/1.1"):
            await raw.send(head(line, f"Authorization: Bearer {alice.key}"))
            answer = await raw.response()
            assert answer.status == 503
            assert f" [{answer.headers['x-request-id']}]: " in lines()[-1]
    monkeypatch.undo()
    logged = len(lines())
    async with connect_device(server.device_url, token) as device:
        for _ in range(70):
            await device.ws.send_message("{")
        await device.wait_closed()
    assert lines()[logged:]
    assert not any("[" in line.partition(": ")[0] for line in lines()[logged:])


async def test_an_app_on_another_server_gives_ids(server: Any, lane: str) -> None:
    """The app gives them where its server does not."""
    sent: list[Any] = []

    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else await trio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": "/livez", "raw_path": b"/livez", "query_string": b"", "root_path": "", "extensions": {},
        "headers": [(b"host", b"x"), (b"x-request-id", b"mine")], "client": ("127.0.0.1", 1), "server": ("::1", 80),
    }  # fmt: skip
    await create_app(server.service)(scope, receive, send)
    values = [value.decode() for name, value in sent[0]["headers"] if name == b"x-request-id"]
    assert len(values) == 1
    assert OURS.fullmatch(values[0])
