"""The cases that the Autobahn test suite names, from its list of what a WebSocket server has to do.

That suite expects an echo; here are the messages that were taken, the pongs, and the code of the goodbye. Its groups 12
and 13 are about compression, which is not offered; its group 9 about the speed of large messages, of which only the
limit is of interest here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import trio
import trio.testing
from rows import every_row
from websockets.frames import Frame, Opcode
from websockets.utils import apply_mask

LIMIT = 2**17  # bytes of a message: as a device's frame
KOSME = "κόσμε".encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A masked frame, right or wrong."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2, "big") if size < 2**16 else b"\xff" + size.to_bytes(8, "big")
    return bytes([fin << 7 | rsv << 4 | opcode]) + length + b"mask" + apply_mask(payload, b"mask")


def text(payload: bytes, **options: Any) -> bytes:
    return frame(1, payload, **options)


def fragments(*payloads: bytes, between: Sequence[bytes] = ()) -> bytes:
    """A text in that many frames, with others between them."""
    data, others = b"", list(between)
    for n, payload in enumerate(payloads):
        data += frame(0 if n else 1, payload, fin=n == len(payloads) - 1)
        if others:
            data += others.pop(0)
    return data


def octets(payload: bytes) -> bytes:
    """A text in fragments of one byte."""
    return fragments(*(bytes([byte]) for byte in payload))


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(8, b"" if code is None else code.to_bytes(2, "big") + reason)


@attrs.frozen
class Case:
    """What is sent, and what has to come of it."""

    data: bytes
    messages: list[bytes] = attrs.field(factory=list)
    code: int | None = None
    """Of the server's goodbye; None where it says none, 1005 where that holds no code."""
    pongs: list[bytes] = attrs.field(factory=list)


def taken(*messages: bytes, data: bytes | None = None, pongs: Sequence[bytes] = ()) -> Case:
    """All is right."""
    return Case(b"".join(map(text, messages)) if data is None else data, list(messages), None, list(pongs))


def refused(data: bytes, code: int = 1002, messages: Sequence[bytes] = (), pongs: Sequence[bytes] = ()) -> Case:
    """What comes behind the mistake is not taken."""
    return Case(data + text(b"after"), list(messages), code, list(pongs))


HELLO = b"Hello, world!"
PING, PONG = frame(9, b"ping"), frame(10, b"pong")
SIZES = (0, 125, 126, 127, 128, 65535, 65536)

CASES: dict[str, Case] = {
    **{f"1.1.{n} text of {size}": taken(b"*" * size) for n, size in enumerate(SIZES, 1)},
    "1.1.8 text of 65536 in chops": taken(b"*" * 65536),
    **{f"1.2.{n} binary of {size}": refused(frame(2, b"\xfe" * size), 1003) for n, size in enumerate(SIZES, 1)},
    "2.1 ping": taken(data=frame(9), pongs=[b""]),
    "2.2 ping with text": taken(data=frame(9, HELLO), pongs=[HELLO]),
    "2.3 ping with bytes": taken(
        data=frame(9, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"), pongs=[b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"]
    ),
    "2.4 ping of 125": taken(data=frame(9, b"\xfe" * 125), pongs=[b"\xfe" * 125]),
    "2.5 ping of 126": refused(frame(9, b"\xfe" * 126)),
    "2.7 a pong": taken(data=frame(10)),
    "2.8 a pong with text": taken(data=PONG),
    "2.9 a pong, then a ping": taken(data=PONG + PING, pongs=[b"ping"]),
    "2.10 ten pings": taken(
        data=b"".join(frame(9, b"%d" % n) for n in range(10)), pongs=[b"%d" % n for n in range(10)]
    ),
    "3.1 a reserved bit in a text": refused(text(HELLO, rsv=1)),
    "3.2 behind a text": refused(text(HELLO) + text(HELLO, rsv=2) + PING, messages=[HELLO]),
    "3.3 two bits behind a text": refused(text(HELLO) + text(HELLO, rsv=3) + PING, messages=[HELLO]),
    "3.4 another bit behind a text": refused(text(HELLO) + text(HELLO, rsv=4) + PING, messages=[HELLO]),
    "3.5 in a binary": refused(frame(2, b"\xff" * 8, rsv=5)),
    "3.6 in a ping": refused(frame(9, HELLO, rsv=6)),
    "3.7 in a goodbye": refused(frame(8, b"\x03\xe8", rsv=7)),
    **{
        f"4.{group}.{n} opcode {opcode}": case
        for group, first in ((1, 3), (2, 11))
        for n, opcode, case in (
            (1, first, refused(frame(first))),
            (2, first + 1, refused(frame(first + 1, b"reserved opcode"))),
            (3, first + 2, refused(text(HELLO) + frame(first + 2) + PING, messages=[HELLO])),
            (4, first + 3, refused(text(HELLO) + frame(first + 3, HELLO) + PING, messages=[HELLO])),
            (5, first + 4, refused(text(HELLO) + frame(first + 4, HELLO) + PING, messages=[HELLO])),
        )
    },
    "5.1 ping in two": refused(frame(9, b"fragment1", fin=False) + frame(0, b"fragment2")),
    "5.2 pong in two": refused(frame(10, b"fragment1", fin=False) + frame(0, b"fragment2")),
    "5.3 text in two": taken(b"fragment1fragment2", data=fragments(b"fragment1", b"fragment2")),
    "5.6 with a ping between": taken(
        b"fragment1fragment2", data=fragments(b"fragment1", b"fragment2", between=[PING]), pongs=[b"ping"]
    ),
    "5.9 the end of nothing": refused(frame(0, b"non-continuation") + text(HELLO)),
    "5.12 a part of nothing": refused(frame(0, b"non-continuation", fin=False) + text(HELLO)),
    "5.15 a text in two, then a part of nothing": refused(
        fragments(b"fragment1", b"fragment2") + frame(0, b"fragment3", fin=False) + text(b"fragment4"),
        messages=[b"fragment1fragment2"],
    ),
    "5.16 a part of nothing, then a text in two": refused(
        (frame(0, b"fragment1", fin=False) + fragments(b"fragment2", b"fragment3")) * 2
    ),
    "5.17 the end of nothing, then a text in two": refused(
        (frame(0, b"fragment1") + fragments(b"fragment2", b"fragment3")) * 2
    ),
    "5.18 a text in a text": refused(text(b"fragment1", fin=False) + text(b"fragment2")),
    "5.19 in five, with two pings between": taken(
        b"fragment1fragment2fragment3fragment4fragment5",
        data=fragments(
            *(b"fragment%d" % n for n in range(1, 6)), between=[b"", frame(9, b"pongme 1"), b"", frame(9, b"pongme 2")]
        ),
        pongs=[b"pongme 1", b"pongme 2"],
    ),
    "6.1.1 nothing": taken(b""),
    "6.1.2 nothing in three": taken(b"", data=fragments(b"", b"", b"")),
    "6.1.3 something between nothing": taken(b"middle", data=fragments(b"", b"middle", b"")),
    "6.2.1 UTF-8": taken("Hello-µ@ßöäüàá-UTF-8!!".encode()),
    "6.2.2 cut between characters": taken(
        "Hello-µ@ßöäüàá-UTF-8!!".encode(), data=fragments("Hello-µ@ßöä".encode(), "üàá-UTF-8!!".encode())
    ),
    "6.2.3 in single bytes": taken("Hello-µ@ßöäüàá-UTF-8!!".encode(), data=octets("Hello-µ@ßöäüàá-UTF-8!!".encode())),
    "6.2.4 κόσμε in single bytes": taken(KOSME, data=octets(KOSME)),
    "6.3.1 no UTF-8": refused(text(KOSME + b"\xed\xa0\x80edited"), 1007),
    "6.3.2 in single bytes": refused(octets(KOSME + b"\xed\xa0\x80edited"), 1007),
    "6.4.1 wrong in the second of three": refused(fragments(KOSME + b"\xf4", b"\x90\x80\x80", b"edited"), 1007),
    "6.4.2 wrong at its second byte": refused(fragments(KOSME + b"\xf4", b"\x90", b"\x80\x80edited"), 1007),
    **{
        f"6.5.{n} κόσμε cut at {cut}": taken(KOSME, data=fragments(KOSME[:cut], KOSME[cut:]))
        for n, cut in enumerate((2, 5, 7, 9), 1)
    },
    **{
        f"6.6.{cut} the first {cut} bytes of κόσμε": taken(KOSME[:cut])
        if KOSME[:cut].decode(errors="ignore").encode() == KOSME[:cut]
        else refused(text(KOSME[:cut]), 1007)
        for cut in range(1, len(KOSME) + 1)
    },
    **{
        f"6.7.{n} {data.hex()}": taken(data)
        for n, data in enumerate((b"\0", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"), 1)
    },
    **{
        f"6.8.{n} {data.hex()}": refused(text(data), 1007)
        for n, data in enumerate((b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"), 1)
    },
    **{
        f"6.9.{n} {data.hex()}": taken(data)
        for n, data in enumerate((b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"), 1)
    },
    **{
        f"6.10.{n} {data.hex()}": refused(text(data), 1007)
        for n, data in enumerate((b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"), 1)
    },
    **{
        f"6.11.{n} {data.hex()}": taken(data)
        for n, data in enumerate((b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"), 1)
    },
    "6.11.5 beyond the last character": refused(text(b"\xf4\x90\x80\x80"), 1007),
    **{
        f"6.12.{n} {data.hex()[:16]}": refused(text(data), 1007)
        for n, data in enumerate(
            (b"\x80", b"\xbf", *((b"\x80\xbf" * 3)[:n] for n in range(2, 7)), bytes(range(0x80, 0xC0))), 1
        )
    },
    **{
        f"6.13.{n} lonely {first:x} to {last:x}": refused(
            text(b"".join(bytes([byte]) + b" " for byte in range(first, last + 1))), 1007
        )
        for n, (first, last) in enumerate(((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD)), 1)
    },
    **{
        f"6.14.{n} {data.hex()}": refused(text(data), 1007)
        for n, data in enumerate(
            (
                b"\xc0",
                b"\xe0\x80",
                b"\xf0\x80\x80",
                b"\xf8\x80\x80\x80",
                b"\xfc\x80\x80\x80\x80",
                b"\xdf",
                b"\xef\xbf",
                b"\xf7\xbf\xbf",
                b"\xfb\xbf\xbf\xbf",
                b"\xfd\xbf\xbf\xbf\xbf",
            ),
            1,
        )
    },
    "6.15.1 many that are cut off": refused(
        text(b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80"), 1007
    ),
    **{
        f"6.16.{n} {data.hex()}": refused(text(data), 1007)
        for n, data in enumerate((b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"), 1)
    },
    **{
        f"6.{group}.{n} {data.hex()}": refused(text(data), 1007)
        for group, longer in (
            (
                17,
                (
                    b"\xc0\xaf",
                    b"\xe0\x80\xaf",
                    b"\xf0\x80\x80\xaf",
                    b"\xf8\x80\x80\x80\xaf",
                    b"\xfc\x80\x80\x80\x80\xaf",
                ),
            ),
            (
                18,
                (
                    b"\xc1\xbf",
                    b"\xe0\x9f\xbf",
                    b"\xf0\x8f\xbf\xbf",
                    b"\xf8\x87\xbf\xbf\xbf",
                    b"\xfc\x83\xbf\xbf\xbf\xbf",
                ),
            ),
            (
                19,
                (
                    b"\xc0\x80",
                    b"\xe0\x80\x80",
                    b"\xf0\x80\x80\x80",
                    b"\xf8\x80\x80\x80\x80",
                    b"\xfc\x80\x80\x80\x80\x80",
                ),
            ),
            (
                20,
                (
                    b"\xed\xa0\x80",
                    b"\xed\xad\xbf",
                    b"\xed\xae\x80",
                    b"\xed\xaf\xbf",
                    b"\xed\xb0\x80",
                    b"\xed\xbe\x80",
                    b"\xed\xbf\xbf",
                ),
            ),
            (21, (b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xad\xbf\xed\xb0\x80", b"\xed\xaf\xbf\xed\xbf\xbf")),
        )
        for n, data in enumerate(longer, 1)
    },
    **{
        f"6.22.{n} {char!a}": taken(char.encode())
        for n, char in enumerate((chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF)), 1)
    },
    "6.23.1 the replacement character": taken("\ufffd".encode()),
    "7.1.1 a goodbye": Case(text(HELLO) + close(), [HELLO], 1000),
    "7.1.2 two of them": Case(close() + close(), [], 1000),
    "7.1.3 a ping behind it": Case(close() + PING, [], 1000),
    "7.1.4 a text behind it": Case(close() + text(HELLO), [], 1000),
    # RFC 6455 allows it, and `websockets` takes it for a mistake: the connection ends all the same.
    "7.1.5 within a text": Case(text(b"fragment1", fin=False) + close() + frame(0, b"fragment2"), [], 1002),
    "7.1.6 behind a large text": Case(text(b"*" * LIMIT) + close() + PING, [b"*" * LIMIT], 1000),
    "7.3.1 without a code": Case(close(None), [], 1005),
    "7.3.2 half a code": Case(frame(8, b"\x03"), [], 1002),
    "7.3.3 with a code": Case(close(), [], 1000),
    "7.3.4 with a reason": Case(close(1000, HELLO), [], 1000),
    "7.3.5 with the longest reason": Case(close(1000, b"*" * 123), [], 1000),
    "7.3.6 with one too long": Case(close(1000, b"*" * 124), [], 1002),
    "7.5.1 a reason that is not UTF-8": Case(close(1000, KOSME + b"\xed\xa0\x80edited"), [], 1007),
    **{
        f"7.7.{n} code {code}": Case(close(code), [], code)
        for n, code in enumerate((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999), 1)
    },
    **{
        f"7.9.{n} code {code}": Case(close(code), [], 1002)
        for n, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1)
    },
    **{f"7.13.{n} code {code}": Case(close(code), [], 1002) for n, code in enumerate((5000, 65535), 1)},
    "9 the largest": taken(b"*" * LIMIT),
    "9 one byte more": refused(text(b"*" * (LIMIT + 1)), 1009),
    "9 one byte more in fragments": refused(fragments(b"*" * LIMIT, b"*"), 1009),
    "10.1.1 in fragments of 1300": taken(b"*" * 65536, data=fragments(*[b"*" * 1300] * 50, b"*" * 536)),
}


async def serve(ws: Any, messages: list[bytes]) -> None:
    """Take every message, and send what waits beside them: what a link does."""

    async def write() -> None:
        while True:
            wakeup = trio.Event()
            ws.on_control = wakeup.set
            while ws.control_pending:
                await ws.send([])
            await wakeup.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while (message := await ws.receive()) is not None:
            if isinstance(message, bytes):  # else what is told of one that is broken
                messages.append(message)
        await trio.testing.wait_all_tasks_blocked()  # the goodbye goes out
        nursery.cancel_scope.cancel()


async def check(open_pair: Callable[..., Awaitable[Any]], case: Case, chop: int, **options: Any) -> None:
    """Send it in pieces, and look at all that comes of it."""
    ws, client = await open_pair(max_message=LIMIT, **options)
    messages: list[bytes] = []
    heard: list[Frame] = []

    async def send() -> None:
        data = case.data + (frame(9, b"the end") if case.code is None else b"")
        try:
            for start in range(0, len(data), chop):
                await client.stream.send_all(data[start : start + chop])
        except trio.BrokenResourceError:
            pass  # it has heard enough

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, ws, messages)
        nursery.start_soon(send)
        while not heard or not (heard[-1].opcode is Opcode.CLOSE or bytes(heard[-1].data) == b"the end"):
            client.protocol.receive_data(bytes(await client.stream.receive_some(2**16)))
            heard += client.protocol.events_received()
        nursery.cancel_scope.cancel()
    for end in (client.stream, client.server_end):
        await trio.aclose_forcefully(end)
    goodbyes = [int.from_bytes(found.data[:2], "big") or 1005 for found in heard if found.opcode is Opcode.CLOSE]
    assert messages == case.messages
    assert [bytes(found.data) for found in heard if found.opcode is Opcode.PONG][: len(case.pongs)] == case.pongs
    assert goodbyes == ([] if case.code is None else [case.code])


@every_row("name", CASES)
async def test_a_case(open_pair: Callable[..., Awaitable[Any]], name: str) -> None:
    """Whole, chopped, and where it is short in single bytes; read by a task, and without one."""
    case = CASES[name]
    for chop in (2**20, 997, *([1] if len(case.data) < 200 else [])):
        for sockets in (True, False):
            with trio.fail_after(10):
                await check(open_pair, case, chop, sockets=sockets)
