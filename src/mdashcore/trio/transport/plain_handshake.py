"""Handshakes that can be read in only one way, which are nearly all: read and answered here, with the same answer.

`websockets` reads every other one. For those it takes ten times as long, because it reads any head.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Final

import attrs
from websockets.utils import accept_key

__all__ = ["PlainFields", "PlainHandshake", "PlainRequest"]

MAX_PLAIN_HEAD: Final = 4096  # bytes: a browser with cookies sends 1000

_HEAD: Final = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n){4,64})\r\n")

_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64

_UPGRADES: Final = frozenset({"upgrade", "keep-alive, upgrade"})

_ODD: Final = frozenset({"content-length", "transfer-encoding", "sec-websocket-protocol"})
"""Fields that do not occur in a plain handshake. Extensions may be offered; none is ever accepted."""


@attrs.frozen
class PlainFields:
    """The fields of a head in which each occurs once. Names are in any case."""

    _values: dict[str, str]
    """By the names in lower case."""

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def get_all(self, name: str) -> list[str]:
        """Return the value of a field in a list; an empty list if there is no such field."""
        return [self[name]] if name in self else []


@attrs.frozen
class PlainRequest:
    """The request of a plain handshake, with the attributes of the library's `Request` that a server needs."""

    path: str
    headers: PlainFields


class PlainHandshake:
    """One handshake that was read as a `PlainRequest`."""

    __slots__ = ()

    @staticmethod
    def read(head: bytes) -> PlainRequest | None:
        """Read the whole head of a request. Returns `None` if it is no plain handshake."""
        match = _HEAD.fullmatch(head) if len(head) <= MAX_PLAIN_HEAD else None
        if match is None:
            return None
        fields: dict[str, str] = {}
        for line in match[2].decode("ascii").split("\r\n")[:-1]:
            name, _, value = line.partition(":")
            name = name.lower()
            if name in _ODD or name in fields:
                return None
            fields[name] = value.strip(" \t")
        is_plain = (
            fields.get("upgrade", "").lower() == "websocket"
            and fields.get("connection", "").lower() in _UPGRADES
            and fields.get("sec-websocket-version") == "13"
            and _KEY.fullmatch(fields.get("sec-websocket-key", ""))
        )
        return PlainRequest(match[1].decode("ascii"), PlainFields(fields)) if is_plain else None

    def answer(self, request: PlainRequest, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        """Do the same as `Handshake.answer`. A plain handshake is always accepted."""
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            f"Date: {_date(int(time.time()))}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_key(request.headers['Sec-WebSocket-Key'])}",
            *[f"{name}: {value}" for name, value in headers.items()],
            "\r\n",
        ]
        return "\r\n".join(lines).encode(), True


@lru_cache(maxsize=1)  # a fleet that comes back sends hundreds of handshakes in a second
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
