"""Heads of plain requests: those that can be read in only one way. The fast lane answers only these."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import attrs

from mdashcore.server.http.conditions import ODD_HEADERS

__all__ = ["RequestHead", "field_list", "is_host"]

_HEAD: Final = re.compile(
    rb"(GET|POST) /api/v2/devices/([A-Za-z0-9._~-]+)/(?:shadow|rpc/([A-Za-z0-9._-]+)(?:\?timeout=([0-9.]+))?)"
    rb" HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[!-~](?:[\t -~]*[!-~])?[ \t]*\r\n){1,64})\r\n"
)
"""A plain head (RFC 9112, sections 3 and 5). It has no space, escape or byte that could be read in two ways."""

_ONCE: Final = frozenset({b"host", b"content-length", b"authorization", b"if-match", b"if-none-match"})
"""Fields that may occur once in a plain request."""

_ODD: Final = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"http2-settings"}
    | {name.encode() for name in ODD_HEADERS}
)
"""Fields that do not occur in a plain request."""

_LABEL: Final = r"[A-Za-z0-9_~%!$&'()*+,;=-]{1,63}+"
_HOST: Final = re.compile(
    rf"(?:{_LABEL}(?:\.{_LABEL}){{0,126}}+\.?|\[[0-9A-Fa-f:.]{{2,45}}\])?(?::[0-9]{{0,5}})?".encode()
)

_LENGTH: Final = re.compile(rb"[0-9]{1,9}")


@lru_cache(maxsize=64)  # nearly all requests have the same value
def is_host(value: bytes) -> bool:
    """Return whether bytes can be the value of `Host` (RFC 9112, section 3.2). Quart fails with other values."""
    return _HOST.fullmatch(value) is not None


@attrs.frozen
class RequestHead:
    """A request that the fast lane can answer."""

    post: bool
    device: str
    method: str | None
    """The device's method; `None` for the device's shadow."""
    timeout: str | None
    conditions: tuple[str | None, str | None] | None
    """The values of ``If-Match`` and ``If-None-Match`` of a request for a shadow; `None` if it has neither."""
    authorization: str
    """A Bearer key. Passwords take a while anyway, and wrong ones are counted in the slow lane."""
    body_start: int
    body_end: int
    """The end of the body in the bytes from which it was read. The next request begins there."""
    close: bool
    """Whether the client wants the connection to be closed after the answer."""

    @classmethod
    def read(cls, data: bytes) -> RequestHead | None:
        """Read the request at the beginning of `data`, whose head is complete. Returns `None` if it is not plain."""
        match = _HEAD.match(data)
        if match is None:
            return None
        fields: dict[bytes, bytes] = {}
        for line in match[5].split(b"\r\n")[:-1]:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name in _ODD or (name in _ONCE and name in fields):
                return None
            if name == b"connection" and name in fields:
                return None
            fields[name] = value.strip()
        length = fields.get(b"content-length", b"0")
        connection = fields.get(b"connection", b"keep-alive").lower()
        authorization = fields.get(b"authorization")
        if (
            authorization is None
            or authorization[:7].lower() != b"bearer "
            or not is_host(fields.get(b"host", b"."))
            or not _LENGTH.fullmatch(length)
        ):
            return None
        if connection not in (b"keep-alive", b"close"):
            return None
        conditions = None
        if b"if-match" in fields or b"if-none-match" in fields:
            if match[3] is not None:
                return None  # a call has no versions
            conditions = _text(fields.get(b"if-match")), _text(fields.get(b"if-none-match"))
        if match[1] == b"GET" and match[3] is None and int(length):
            return None  # a shadow is read without a body
        start = match.end()
        return cls(
            post=match[1] == b"POST",
            device=match[2].decode(),
            method=None if match[3] is None else match[3].decode(),
            timeout=None if match[4] is None else match[4].decode(),
            conditions=conditions,
            authorization=authorization.decode(),
            body_start=start,
            body_end=start + int(length),
            close=connection == b"close",
        )


def field_list(head: bytes, name: str) -> str | None:
    """Return the values of a field of a plain head as one list; `None` if it is missing; `name` in lower case."""
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    values = [value.strip().decode() for found, _, value in lines if found.lower() == name.encode()]
    return ", ".join(values) if values else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
