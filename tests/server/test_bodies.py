"""Bodies of requests: which are read, and how much memory they have together."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from rows import every_row

from mdashcore._errors import Busy, Overloaded
from mdashcore.server.endpoints import SMALL_BODY
from mdashcore.server.http.bodies import ROOM_LOG_INTERVAL, Bodies
from mdashcore.server.openapi import ALL_ENDPOINTS

TAKERS = {
    ("POST", "/api/v2/devices"),
    ("PUT", "/api/v2/devices/<id>"),
    ("POST", "/api/v2/devices/<id>"),
    ("POST", "/api/v2/devices/<id>/rpc"),
    ("GET", "/api/v2/devices/<id>/rpc/<method>"),
    ("POST", "/api/v2/devices/<id>/rpc/<method>"),
    ("POST", "/api/v2/devices/<id>/shadow"),
    ("PUT", "/api/v2/filters/<name>"),
    ("POST", "/api/v2/firmware/<id>"),
    ("PUT", "/api/v2/firmware/<id>"),
    ("POST", "/api/v2/jobs"),
    ("POST", "/api/v2/keys"),
    ("POST", "/api/v2/logs"),
    ("POST", "/api/v2/rollouts/preview"),
    ("POST", "/api/v2/rollouts/<id>/resume"),
    ("POST", "/api/v2/tags"),
    ("POST", "/api/v2/users"),
    ("POST", "/api/v2/users/<name>/devices"),
    ("PUT", "/api/v2/users/<name>"),
    ("POST", "/api/v2/login"),
    ("POST", "/api/v2/logout"),
    ("PUT", "/api/v2/me/password"),
}
"""The endpoints that read a body. Images are read elsewhere."""


def test_which_routes_take_a_body() -> None:
    """These, and no others; what a stranger may send, and what only has names, passwords or a filter, has 4 KiB."""
    limits = {(each.method, each.path): each.body_limit(1_000_000) for each in ALL_ENDPOINTS}
    assert {each for each, limit in limits.items() if limit} == TAKERS
    small = {path for (_, path), limit in limits.items() if limit == SMALL_BODY}
    assert {path.removeprefix("/api/v2/") for path in small} == {
        "devices",
        "filters/<name>",
        "keys",
        "login",
        "logout",
        "me/password",
        "users",
        "users/<name>",
    }


class Body:
    """A body that is being read: pieces come when the test says so."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._send, self._receive = trio.open_memory_channel[int](10)
        self.outcome = ""

    async def run(self, *, whole: trio.Event | None = None) -> None:
        try:
            with self._bodies.hold() as held:
                while size := await held.wait(self._receive.receive):
                    held.add(size)
                held.complete()
                self.outcome = "whole"
                if whole is not None:
                    await whole.wait()
        except Overloaded as exc:
            self.outcome = str(exc)

    async def come(self, size: int) -> None:
        """A piece of so many bytes; 0 is the end."""
        await self._send.send(size)
        await trio.testing.wait_all_tasks_blocked()


NO_ROOM = "the server has no room for more request bodies now"


async def test_the_body_that_waits_the_longest_goes_first() -> None:
    """Until there is room for what has come; each that goes is told so."""
    bodies = Bodies(100)
    async with trio.open_nursery() as nursery:
        each = [Body(bodies) for _ in range(4)]
        for body in each:
            nursery.start_soon(body.run)
        for body in each[:3]:
            await body.come(30)
        await each[0].come(1)  # now the second one has waited the longest
        await each[3].come(50)
        assert [body.outcome for body in each] == ["", NO_ROOM, NO_ROOM, ""]
        assert bodies.size == 81
        for body in (each[0], each[3]):
            await body.come(0)
            assert body.outcome == "whole"
    assert bodies.size == 0


async def test_a_body_for_which_there_is_no_room_is_refused() -> None:
    """Bodies that are complete are not given up: they count until they are answered."""
    bodies = Bodies(100)
    answered = trio.Event()
    async with trio.open_nursery() as nursery:
        complete, late, small = Body(bodies), Body(bodies), Body(bodies)
        nursery.start_soon(lambda: complete.run(whole=answered))
        nursery.start_soon(late.run)
        nursery.start_soon(small.run)
        await complete.come(90)
        await complete.come(0)
        await late.come(20)
        assert (complete.outcome, late.outcome) == ("whole", NO_ROOM)
        await small.come(10)
        await small.come(0)
        assert small.outcome == "whole"
        assert bodies.size == 90
        answered.set()
    assert bodies.size == 0


async def test_an_account_has_a_share_of_the_room() -> None:
    """A quarter of it: what one account holds complete keeps no other from sending."""
    bodies = Bodies(100)
    with bodies.hold() as first, bodies.hold() as second, bodies.hold() as other:
        first.owner = second.owner = "alice"
        other.owner = "bob"
        first.add(20)
        first.complete()
        with pytest.raises(Busy, match="the account has too many") as caught:
            second.add(6)
        assert type(caught.value) is Busy
        second.add(5)
        other.add(25)
    assert bodies.size == 0
    with bodies.hold() as again:
        again.owner = "alice"
        again.add(25)


async def test_that_there_is_no_room_is_logged_once_a_minute(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """However many bodies are refused in it."""
    bodies = Bodies(10)
    for _ in range(3):
        for _ in range(5):
            with pytest.raises(Overloaded), bodies.hold() as held:
                held.add(11)
        await trio.sleep(ROOM_LOG_INTERVAL)
    assert caplog.text.count("request bodies fill the 10 bytes that they may have") == 3
    caplog.clear()


@every_row(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("POST", "/nothing", 404),
        ("POST", "/api/v2/session", 405),
        ("GET", "/api/v2/session", 200),
        ("GET", "/ui/app.js", 200),
        ("POST", "/api/v2/login", 413),
    ],
)
async def test_a_body_that_is_not_wanted_is_not_waited_for(server: Any, method: str, path: str, status: int) -> None:
    """The request is answered as it would be without one, and the connection is closed."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
        await stream.send_all(head.encode() + b"x" * 10)
        answer = b""
        with trio.fail_after(10):
            while b"\r\n\r\n" not in answer:
                answer += await stream.receive_some(2**16)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nconnection: close\r\n" in answer
