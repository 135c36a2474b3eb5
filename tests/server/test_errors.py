"""Every error of the API: its status, and its one form ``{"error": {"code", "message"}}``."""

from __future__ import annotations

import json
import logging

import pytest

from mdashcore import _errors
from mdashcore._errors import STATUS, MdashError, RpcError, StorageError, status_of
from mdashcore.server import errors, operations
from mdashcore.server.app import create_quart_app
from mdashcore.server.service import ServiceSettings
from mdashcore.testing.device import connect_device
from mdashcore.trio import background
from mdashcore.trio.background import Backoff

ERRORS = {
    "MdashError": (MdashError("internal error"), 500, "internal error"),
    "ProtocolError": (_errors.ProtocolError("odd"), 400, "odd"),
    "LocalProtocolError": (_errors.LocalProtocolError("odd"), 400, "odd"),
    "RemoteProtocolError": (_errors.RemoteProtocolError("odd"), 400, "odd"),
    "CallTimeout": (_errors.CallTimeout("slow"), 504, "slow"),
    "InvalidAnswer": (_errors.InvalidAnswer("odd"), 502, "odd"),
    "AnswerTooLarge": (
        _errors.AnswerTooLarge(5, 4),
        502,
        "the answer is too large: a frame of 5 bytes, more than the 4 that are taken",
    ),
    "DeviceOffline": (_errors.DeviceOffline("away"), 503, "away"),
    "InvalidInput": (_errors.InvalidInput("bad"), 400, "bad"),
    "InvalidShadowUpdate": (_errors.InvalidShadowUpdate("bad"), 400, "bad"),
    "InvalidSetting": (_errors.InvalidSetting("bad"), 400, "bad"),
    "InvalidFirmware": (_errors.InvalidFirmware("bad"), 400, "bad"),
    "TooLarge": (_errors.TooLarge("large"), 413, "large"),
    "UnsupportedContent": (_errors.UnsupportedContent("packed"), 415, "packed"),
    "Unauthenticated": (_errors.Unauthenticated("who?"), 401, "who?"),
    "Forbidden": (_errors.Forbidden("no"), 403, "no"),
    "NotFound": (_errors.NotFound("none"), 404, "none"),
    "Conflict": (_errors.Conflict("not now"), 409, "not now"),
    "AlreadyExists": (_errors.AlreadyExists("taken"), 409, "taken"),
    "ShadowConflict": (_errors.ShadowConflict("old"), 409, "old"),
    "LimitReached": (_errors.LimitReached("devices", "5 devices"), 429, "5 devices"),
    "InsufficientStorage": (_errors.InsufficientStorage("full"), 507, "full"),
    "PreconditionFailed": (_errors.PreconditionFailed("other"), 412, "other"),
    "Busy": (_errors.Busy("later", retry_after=2.5), 429, "later"),
    "Overloaded": (_errors.Overloaded("full", retry_after=5.0), 503, "full"),
    "ShuttingDown": (_errors.ShuttingDown("going down", retry_after=4.0), 503, "going down"),
    "StorageError": (StorageError("redis://10.0.0.7 refused"), 503, "the storage is not available"),
    "Damaged": (
        _errors.Damaged("devices/alice/d1 is damaged"),
        500,
        "what is stored of this is damaged; the server's log and `mdash store check` name it",
    ),
    "VersionConflict": (
        _errors.VersionConflict("devices", "alice/d1", expected=1, actual=2),
        503,
        "the storage is not available",
    ),
}
"""An example of every class, its status, and what a client reads. A device's own error is told apart below."""


def tree(cls):
    return {cls, *(found for child in cls.__subclasses__() for found in tree(child))}


def test_the_table_has_every_error():
    """A new class of errors has to be put into the table of this test, and so be thought about."""
    public = {name for name in _errors.__all__ if name != "STATUS"}
    assert set(ERRORS) | {"RpcError"} == public
    assert {cls.__name__ for cls in tree(MdashError) if cls.__module__ == "mdashcore._errors"} == public
    assert set(STATUS) <= {getattr(_errors, name) for name in public}


async def test_every_error_has_a_status_and_a_form(server):
    """The status is the code in the body; the message is for people."""
    app = create_quart_app(server.service)

    @app.get("/raise/<name>")
    async def fail(name):
        raise ERRORS[name][0]

    for name, (error, status, message) in ERRORS.items():
        is_limit = isinstance(error, _errors.LimitReached)  # which waiting does not help
        body = {"error": {"code": status, "message": message, **({"limit": error.limit} if is_limit else {})}}
        assert (name, status_of(error), errors.body(error)) == (name, status, body)
        answer = await app.test_client().get(f"/raise/{name}")
        assert (name, answer.status_code, json.loads(await answer.get_data())) == (name, status, body)
        assert answer.headers["content-type"] == "application/json"
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert answer.headers.get("retry-after") == {"Busy": "3", "Overloaded": "5", "ShuttingDown": "4"}.get(name)


@pytest.mark.parametrize("data", [None, {"pin": 7}, [], 0, ""])
def test_a_device_error_keeps_its_code(data):
    """What a device answered is passed on unchanged; 422 says that the server did its part."""
    error = RpcError(-1, "words", data)
    expected = {"code": -1, "message": "words"} | ({} if data is None else {"data": data})
    assert (status_of(error), errors.body(error)) == (422, {"error": expected})


REQUESTS = [
    # (method, path, content, status)
    ("GET", "/nowhere", None, 404),
    ("GET", "/devices/d1/nowhere", None, 404),
    ("GET", "/devices/nobody", None, 404),
    ("GET", "/devices/%2F", None, 404),
    ("GET", "/devices/d1/rpc/a/b", None, 404),
    ("GET", "/devices/d1/ota", None, 404),
    ("GET", "//devices", None, 404),
    ("DELETE", "/devices", None, 405),
    ("PATCH", "/devices/d1", b"{}", 405),
    ("PUT", "/logs", None, 405),
    ("OPTIONS", "/devices", None, 405),
    ("PUT", "/devices/d1/ota", b"x", 405),
    ("BREW", "/devices", None, 405),
    ("POST", "/devices", b"{", 400),
    ("POST", "/devices", b"\xff", 400),
    ("POST", "/devices", b"[]", 400),
    ("POST", "/devices", b"[" * 1000, 400),
    ("POST", "/devices", b'{"id":"d1"}', 409),
    ("POST", "/devices/d1/ota", b"x", 503),
    ("POST", "/devices/d1/rpc/X", b"{}", 503),
    ("POST", "/devices", b" " * (ServiceSettings().max_body + 1), 413),
    ("POST", "/devices/d1", b" " * (operations.MAX_BODY + 1), 413),
    ("POST", "/devices/d1/shadow", b" " * (operations.MAX_BODY + 1), 413),
    ("POST", "/devices/d1/rpc", b" " * (operations.MAX_BODY + 1), 413),
    ("POST", "/devices/d1/rpc/X", b" " * (operations.MAX_BODY + 1), 413),
    ("POST", "/devices/d1/shadow", b'{"state":{"desired":{"a":"%b"}}}' % (b"x" * 40_000), 413),
    ("GET", "/rpc", None, 426),
    ("GET", "/notify", None, 426),
    ("GET", "/users", None, 403),
]


async def test_what_can_go_wrong_with_a_request(alice):
    """JSON in the one form, whatever it is; and the connection answers the next request."""
    await alice.register("d1")
    for method, path, content, status in REQUESTS:
        answer = await alice.http.request(method, f"{alice.server.url}/api/v2{path}", content=content)
        assert (method, path, answer.status_code) == (method, path, status)
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"error"}
        assert set(answer.json()["error"]) == {"code", "message"}
        assert answer.json()["error"]["code"] == status
        assert answer.json()["error"]["message"]
        if status == 405:
            assert method not in answer.headers["allow"]
            assert answer.headers["allow"]
        assert (await alice.http.get("/devices")).status_code == 200


async def test_a_path_outside_the_api(anyone, server):
    """Also JSON; it needs no credentials, because there is nothing."""
    for path in ("/index.html", "/api", "/apiv2/devices"):
        answer = await anyone.get(server.url + path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, 404)


async def test_a_body_without_a_length_is_counted(alice):
    """A chunked body that grows too large is refused, as one that says so beforehand."""

    async def chunks(size):
        for _ in range(size // 2**14):
            yield b" " * 2**14

    limit = alice.server.service.settings.max_body
    answer = await alice.http.post("/logs", content=chunks(limit + 2**14))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, 413)
    assert (await alice.http.post("/logs", content=chunks(limit))).status_code == 200


SECRET = "/srv/secret/path password=hunter2"


@pytest.mark.parametrize("kind", [RuntimeError, StorageError, KeyError])
async def test_an_internal_error_leaks_nothing(alice, monkeypatch, caplog, kind):
    """The client reads that it is one, the operator's log has the rest; the next request is answered."""
    hub = alice.server.service.hub

    async def fail(*args):
        raise kind(SECRET)

    async def fail_immediately(*args):
        raise kind(SECRET)
        yield  # it is a generator

    status, message = (503, "the storage is not available") if kind is StorageError else (500, "internal error")
    async with await alice.connect("d1"):
        await alice.told("online", "d1")
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(hub.device_list, "select", fail_immediately)
            patch.setattr(hub.updates, "get", fail)
            for method, path in (("GET", "/devices"), ("GET", "/devices/d1/ota"), ("POST", "/devices/d1/ota")):
                answer = await alice.http.request(method, path, content=b"x" if method == "POST" else None)
                assert (answer.status_code, answer.json()) == (status, {"error": {"code": status, "message": message}})
    assert SECRET in caplog.text
    caplog.clear()
    assert (await alice.http.get("/devices")).status_code == 200


async def test_answers_are_not_kept_and_not_run(alice):
    """Answers hold secrets: no cache keeps them, no browser guesses at their type or shows them in a frame."""
    for answer in (await alice.http.get("/devices"), await alice.http.get("/nowhere")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers


async def test_a_trailing_slash_is_the_same_path(alice):
    """With or without: no redirect, also for an upload."""
    await alice.register("d1")
    assert (await alice.http.get("/devices/")).json() == (await alice.http.get("/devices")).json()
    assert (await alice.http.get("/devices/d1/shadow/")).status_code == 200
    assert (await alice.http.post("/devices/d1/ota/", content=b"x")).status_code == 503


# Sockets, when the storage fails


async def fail(*args, **options):
    raise StorageError(SECRET)


@pytest.mark.parametrize("part", ["presence.claim", "registry.get", "shadows.get", "feed.emit"])
async def test_a_device_whose_connection_cannot_be_stored_comes_again(alice, monkeypatch, part):
    """It is told to try again later: without the record no delta would be pushed, and it would be shown as offline."""
    monkeypatch.setattr(background, "STORAGE_BACKOFF", Backoff(first=0.01, most=0.01))
    token = await alice.register("d1")
    name, _, verb = part.partition(".")
    with monkeypatch.context() as patch:
        patch.setattr(getattr(alice.server.service.hub, name), verb, fail)
        async with connect_device(alice.server.device_url, token) as device:
            code, reason = await device.wait_closed()
    assert (code, SECRET in reason) == (1013, False)
    async with connect_device(alice.server.device_url, token):
        await alice.told("online", "d1")


@pytest.mark.parametrize("part", ["presence.release", "feed.emit"])
async def test_that_a_device_is_gone_is_told_when_the_storage_is_back(alice, monkeypatch, part):
    """It is tried until then: once told, and offline in the list."""
    monkeypatch.setattr(background, "STORAGE_BACKOFF", Backoff(first=0.01, most=0.01))
    name, _, verb = part.partition(".")
    async with alice.listen() as ear:
        async with await alice.connect("d1"):
            await ear.expect("online")
            target = getattr(alice.server.service.hub, name)
            works, failures = getattr(target, verb), iter([True] * 3)

            async def sometimes(*args, **options):
                return await (fail() if next(failures, False) else works(*args, **options))

            monkeypatch.setattr(target, verb, sometimes)
        assert (await ear.hear())["name"] == "offline"
        assert not (await alice.http.get("/devices/d1")).json()["online"]
        await alice.http.put("/devices/d1", json={"name": "mark"})
        assert (await ear.hear())["name"] == "updated"


@pytest.mark.parametrize("frame", [{"method": "Log"}, {"id": 1, "method": "Log"}])
async def test_what_a_device_says_is_not_lost_silently(alice, monkeypatch, frame):
    """It is told to come again, and says then what it says to a new connection."""
    async with await alice.connect("d1") as device:
        await alice.told("online", "d1")
        with monkeypatch.context() as patch:
            patch.setattr(alice.server.service.hub.feed, "emit", fail)
            await device.send(frame)
            code, reason = await device.wait_closed()
    assert (code, SECRET in reason) == (1013, False)


@pytest.mark.parametrize("verb", ["end", "page"])
async def test_a_listener_whose_log_cannot_be_read_comes_again(alice, monkeypatch, verb):
    """With the offset at which to go on, where it is known; a listener that is refused reads an error."""
    feed = alice.server.service.hub.feed
    for _ in range(3):
        await feed.emit("alice", "n", "d1")
    url = f"ws{alice.server.url[4:]}/api/v2/notify?start=1"
    with monkeypatch.context() as patch:
        patch.setattr(feed, verb, fail)
        async with connect_device(url, alice.key) as socket:
            code, reason = await socket.wait_closed()
    assert (code, SECRET in reason) == (1013, False)
    assert verb == "end" or reason == "start=1"
