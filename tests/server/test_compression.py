"""Answers that are compressed: lists, notifications and the dashboard's files; shadows and calls never."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore.identity import DeviceKey
from mdashcore.server.api import _lists
from mdashcore.server.http.compression import MIN_COMPRESSED, GzipStream, accepts_gzip
from mdashcore.trio.turns import Pace

ACCEPTED = {
    "gzip": True,
    "GZIP": True,
    "x-gzip": True,
    "deflate, gzip": True,
    "br;q=1.0, gzip;q=0.8, *;q=0.1": True,
    "*": True,
    "gzip;q=0.001": True,
    "gzip ; q=0.5 , identity;q=0.5": True,
    "": False,
    "identity": False,
    "br, deflate": False,
    "gzip;q=0": False,
    "gzip;q=0.000, *": False,
    "*;q=0": False,
    "identity, gzip;q=0.5": False,
    "gzip;q=x": False,
    "gzip;q=2": False,
    "gzip;q=-1": False,
    "gzip;q=nan": False,
    "gzipped": False,
}


@pytest.mark.parametrize(("header", "expected"), ACCEPTED.items())
def test_the_weights_of_codings_are_heeded(header, expected):
    """RFC 9110: a weight of 0 refuses, and no encoding is better if it weighs more."""
    assert accepts_gzip(header) is expected


def test_a_client_that_says_nothing_gets_no_encoding():
    """Many such clients know none."""
    assert accepts_gzip(None) is False


@given(st.text(max_size=60))
def test_no_header_is_too_odd(header):
    """Any text is a header that accepts gzip or not."""
    assert accepts_gzip(header) in (True, False)


@given(st.lists(st.binary(max_size=3000)))
def test_a_stream_is_the_same_bytes(pieces):
    """Piece by piece, empty ones included."""
    stream = GzipStream()
    data = b"".join([*map(stream.add, pieces), stream.end()])
    assert gzip.decompress(data) == b"".join(pieces)


@pytest.fixture
async def fleet(alice):
    """As many devices as fill several pieces of a list."""
    hub = alice.server.service.hub
    for n in range(40):
        await hub.create_device("alice", f"d{n:03}")
        state = {"state": {"reported": {"text": f"{n} " * 1500}}}
        await hub.shadows.update(DeviceKey("alice", f"d{n:03}"), state)
    return alice


async def both(http, method, url, **options):
    """The answer without an encoding, and the one to a client that accepts gzip."""
    plain = await http.request(method, url, headers={"Accept-Encoding": "identity"}, **options)
    packed = await http.request(method, url, headers={"Accept-Encoding": "gzip"}, **options)
    assert "content-encoding" not in plain.headers
    return plain, packed


LISTS = {
    "many rows": ("GET", "/devices?fields=id,name,created_at,tags", None),
    "a page": ("GET", "/devices?limit=10&fields=id,name&sort=name", None),
    "many pieces of notifications": ("POST", "/logs", {"limit": 1000}),
    "a few notifications": ("POST", "/logs", {"limit": 20, "name": "created"}),
}


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_is_compressed_for_a_client_that_accepts_it(fleet, name):
    """It is the same list, and smaller; caches are told that it depends on the request."""
    method, url, body = LISTS[name]
    plain, packed = await both(fleet.http, method, url, json=body)
    assert packed.json() == plain.json()
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"
    if len(plain.content) < MIN_COMPRESSED:
        assert "content-encoding" not in packed.headers
    else:
        assert packed.headers["content-encoding"] == "gzip"


async def test_short_lists_are_left_as_they_are(alice):
    """Below a kilobyte nothing is saved."""
    _, packed = await both(alice.http, "GET", "/devices")
    assert "content-encoding" not in packed.headers
    for n in range(40):
        await alice.http.post("/keys", json={"name": f"key {n}"})
    plain, packed = await both(alice.http, "GET", "/keys")
    assert packed.headers["content-encoding"] == "gzip"
    assert {key["id"] for key in packed.json()} == {key["id"] for key in plain.json()}


SHADOWS = ("/devices", "/devices?limit=40", "/devices?fields=id,shadow", "/devices?filter=id~d00&sort=-name")


async def test_what_may_hold_a_secret_beside_a_guess_is_never_compressed(fleet):
    """A shadow, a device and a backup: whatever the client accepts."""
    for url in ("/devices/d001/shadow", "/devices/d001", "/metrics", *SHADOWS):
        plain, packed = await both(fleet.http, "GET", url)
        assert "content-encoding" not in packed.headers
        assert packed.headers.get("etag") == plain.headers.get("etag")


async def test_the_answer_of_a_device_is_never_compressed(alice, device):
    """It goes through as the device has written it."""
    async with alice.calling("POST", "/devices/d1/rpc/Long", headers={"Accept-Encoding": "gzip"}) as response:
        await device.reply(await device.receive(), "x" * 5000)
        answer = await response()
    assert "content-encoding" not in answer.headers
    assert answer.json() == "x" * 5000


async def test_others_have_their_turn_while_a_list_is_compressed(monkeypatch):
    """After each piece: none is larger than 64 KiB."""
    sizes, turns = [], 0

    class Counted(GzipStream):
        def add(self, piece):
            sizes.append(len(piece))
            return super().add(piece)

    async def pieces():
        for n in range(10):
            yield bytes([n]) * _lists.LIST_PIECE

    class Counting(Pace):
        async def __call__(self):
            nonlocal turns
            turns += 1
            await super().__call__()

    monkeypatch.setattr(_lists, "GzipStream", Counted)
    data = b"".join([part async for part in _lists._compressed(pieces(), Counting("alice"))])
    assert len(zlib.decompress(data, 31)) == 10 * _lists.LIST_PIECE
    assert max(sizes) <= 2**16
    assert turns == len(sizes) == 10


async def test_files_have_two_forms(anyone):
    """Each with an ETag of its own, so that a cache never takes one for the other."""
    url = f"{anyone.base_url.scheme}://{anyone.base_url.netloc.decode()}/ui/app.js"
    plain, packed = await both(anyone, "GET", url)
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept, Accept-Encoding"
    assert plain.headers["etag"] != packed.headers["etag"]
    for accepted, kept, status in [
        ("gzip", packed, 304), ("identity", plain, 304), ("gzip", plain, 200), ("identity", packed, 200),
    ]:  # fmt: skip
        headers = {"Accept-Encoding": accepted, "If-None-Match": kept.headers["etag"]}
        assert (await anyone.get(url, headers=headers)).status_code == status
