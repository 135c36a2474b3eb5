"""Bodies that come slowly: what has ended meanwhile is not obeyed, and what is kept in memory has a bound."""

from __future__ import annotations

import io
import json

import pytest
import trio
from rows import every_row

from mdashcore import firmware
from mdashcore.server.app import create_app
from mdashcore.server.http.bodies import Bodies

PARTS = '--b\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'


def image():
    """A firmware zip."""
    file = io.BytesIO()
    firmware.write_image(
        file, {"name": "lamp", "platform": "esp32", "version": "2.0", "build_id": "new"}, {"app": b"x"}
    )
    return file.getvalue()


def form(**request):
    """A rollout with its image."""
    head, file = PARTS.format("rollout", ""), PARTS.format("file", '; filename="fw.zip"')
    return f"{head}{json.dumps(request)}\r\n{file}".encode() + image() + b"\r\n--b--\r\n"


class Request:
    """A POST request, whose body is given to the app in pieces; `before_last` is awaited before the last one."""

    def __init__(self, server, key, path, *pieces, content_type="application/json"):
        self._app = create_app(server.service)
        self._pieces = list(pieces)
        self.before_last = trio.lowlevel.checkpoint
        path, _, query = path.partition("?")
        headers = {"authorization": f"Bearer {key}", "content-type": content_type, "transfer-encoding": "chunked"}
        self._scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": f"/api/v2{path}", "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("x", 80), "state": {}, "extensions": {},
        }  # fmt: skip

    async def _receive(self):
        if not self._pieces:
            await trio.sleep_forever()
        if len(self._pieces) == 1:
            await self.before_last()
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}

    async def answer(self):
        """Status and body of the answer."""
        sent = []

        async def send(message):
            sent.append(message)

        await self._app(self._scope, self._receive, send)
        return sent[0]["status"], b"".join(each.get("body", b"") for each in sent)


@pytest.fixture
async def made(alice):
    """An image of her library; and she has a device."""
    await alice.register("d1")
    response = await alice.http.post("/firmware", content=image())
    return response.json()


async def begun(person):
    """What requests have made: devices, images, rollouts and the update of d1."""
    paths = ("/devices", "/firmware", "/rollouts", "/devices/d1/ota")
    return [(await person.http.get(path)).content for path in paths]


@every_row(
    ("path", "body", "content_type"),
    [
        ("/devices", lambda made: b'{"id": "late"}', "application/json"),
        ("/rollouts", lambda made: json.dumps({"all": True, "firmware": made}).encode(), "application/json"),
        ("/rollouts", lambda made: form(all=True), "multipart/form-data; boundary=b"),
        ("/rollouts?keep=1", lambda made: form(all=True), "multipart/form-data; boundary=b"),
        ("/firmware", lambda made: image(), "application/zip"),
        ("/devices/d1/ota?queue=1", lambda made: image(), "application/zip"),
        ("/devices/d1/ota?queue=1&keep=1", lambda made: image(), "application/zip"),
        ("/devices/d1/ota?queue=1&firmware={}", lambda made: b"", "application/zip"),
    ],
)
async def test_a_key_that_was_revoked_while_the_body_came(alice, server, made, path, body, content_type):
    """The request is refused, whatever its body is and wherever it is read; with the key it is obeyed."""
    whole, path = body(made["id"]), path.format(made["id"])
    for revoked in (True, False):
        key = (await alice.http.post("/keys", json={"name": "ci"})).json()
        request = Request(server, key["key"], path, whole[:5], whole[5:], content_type=content_type)

        async def revoke(id=key["id"]):
            assert (await alice.http.delete(f"/keys/{id}")).status_code == 200

        if revoked:
            request.before_last = revoke
        before = await begun(alice)
        status, answer = await request.answer()
        assert status in ((401,) if revoked else (200, 201, 202)), answer
        assert not revoked or await begun(alice) == before


async def test_a_body_that_names_an_image_counts_as_any_other(alice, server, made):
    """It takes room among the bodies in memory, and an account has its share of that."""
    server.service.bodies = Bodies(400)
    body = json.dumps({"all": True, "firmware": made["id"], "name": "x" * 20}).encode()
    seen = []

    async def look():
        seen.append(server.service.bodies.size)

    request = Request(server, alice.key, "/rollouts", body[:60], body[60:])
    request.before_last = look
    assert (await request.answer())[0] == 201
    assert seen == [60]
    assert server.service.bodies.size == 0
    status, answer = await Request(server, alice.key, "/rollouts", b"{" + b" " * 100, body).answer()
    assert (status, b"the account has too many request bodies" in answer) == (429, True)
    assert server.service.bodies.size == 0


@every_row(
    ("path", "first"),
    [
        ("/devices", b"{"),
        ("/rollouts", b'{"filter": '),
        ("/devices/d1/ota?queue=1&firmware={}", b""),
    ],
)
async def test_a_whole_body_has_a_time(alice, server, made, mock_clock, path, first):
    """However often a piece of it comes."""
    request = Request(server, alice.key, path.format(made["id"]), *[first, *[b"" if not first else b" "] * 20], b"")
    receive = request._receive

    async def slowly():
        mock_clock.jump(server.service.settings.body_timeout * 0.9)
        await trio.lowlevel.checkpoint()
        return await receive()

    request._receive = slowly
    status, answer = await request.answer()
    assert (status, b"did not come within" in answer) == (408, True)


async def test_an_update_from_the_library_may_announce_a_body(alice, server, made):
    """A client that sends chunks, or speaks HTTP/2, need not know that there are none; a byte is refused."""
    path = f"/devices/d1/ota?queue=1&firmware={made['id']}"
    assert (await Request(server, alice.key, path, b"", b"").answer())[0] == 202
    status, answer = await Request(server, alice.key, path, b"x", b"").answer()
    assert (status, b"has no body" in answer) == (400, True)
