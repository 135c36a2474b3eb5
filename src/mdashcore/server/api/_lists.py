"""Answers that are lists: encoded as they are read, and sent in pieces. Other requests get their turn in between.

A client that does not read pauses the scan, and holds one piece in memory. A list that fails in the middle ends its
connection without the last chunk, so that it never looks complete.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Final, cast

from quart import Response, request

from mdashcore import _json
from mdashcore.server.api._request import answer, principal, service
from mdashcore.server.asgi import Scope, header_list
from mdashcore.server.http.compression import (
    ENCODING_HEADERS,
    MIN_COMPRESSED,
    GzipStream,
    accepts_gzip,
    compressed,
)
from mdashcore.server.service import Service
from mdashcore.trio.turns import Pace

__all__ = ["send_list", "send_pieces", "send_values"]

LIST_PIECE: Final = 2**16  # bytes sent at a time; a client has to take them within the connection's time-out


async def send_list(values: AsyncGenerator[bytes, None], pace: Pace, *, compress: bool = True) -> Response:
    """Answer with a JSON array, as one of the lists that the account has in flight.

    Args:
        values: the elements, each as JSON.
        pace: awaited between two elements.
        compress: whether the answer may be compressed.

    Raises:
        LimitReached: the account has as many lists in flight as it may have.
        MdashError: as `values` raises before the first piece is full.
    """
    response = await send_pieces(_array(values, pace), "application/json", compress=pace if compress else None)
    if compress:
        response.headers["Vary"] = "Accept-Encoding"
    return response


async def send_pieces(
    parts: AsyncGenerator[bytes, None], content_type: str, *, compress: Pace | None = None
) -> Response:
    """Answer with the output of a generator, as one of the account's lists.

    An answer that fits into one piece has a `Content-Length`.

    Args:
        compress: compresses the answer if the client accepts that. It is awaited after each piece.
    """
    pieces = _pieces(service(), principal().account, parts)
    try:
        if request.method == "HEAD":
            await pieces.aclose()
            return _without_length(content_type)
        first = await anext(pieces)
        second = await anext(pieces, None)
    except BaseException:
        await pieces.aclose()
        raise
    if second is None:
        return _whole(first, content_type, compress=compress is not None)
    whole = _rest(first, second, pieces)
    if compress is not None and _client_accepts_gzip():
        return Response(_compressed(whole, compress), content_type=content_type, headers=ENCODING_HEADERS)
    return Response(whole, content_type=content_type)


def _client_accepts_gzip() -> bool:
    return accepts_gzip(header_list(cast(Scope, request.scope), b"accept-encoding"))


def _whole(body: bytes, content_type: str, *, compress: bool) -> Response:
    """Return an answer of one piece."""
    if compress and len(body) >= MIN_COMPRESSED and _client_accepts_gzip():
        return Response(compressed(body), content_type=content_type, headers=ENCODING_HEADERS)
    return Response(body, content_type=content_type)


async def _compressed(pieces: AsyncGenerator[bytes, None], pace: Pace) -> AsyncGenerator[bytes, None]:
    stream = GzipStream()
    async with aclosing(pieces):
        async for piece in pieces:
            if data := stream.add(piece):
                yield data
            await pace()
    yield stream.end()


async def send_values(values: Iterable[Any]) -> Response:
    """Answer with a JSON array of values that are in memory. Such short lists do not count as lists in flight."""
    pace = Pace(principal().account)
    parts = []
    for value in values:
        parts.append(_json.encode(value))
        await pace()
    body = _json.json_array(parts)
    if len(body) < MIN_COMPRESSED or not _client_accepts_gzip():
        response = answer(body)
    else:
        stream, found = GzipStream(), []
        for start in range(0, len(body), LIST_PIECE):
            found.append(stream.add(body[start : start + LIST_PIECE]))
            await pace()
        response = Response(b"".join([*found, stream.end()]), content_type="application/json", headers=ENCODING_HEADERS)
    response.headers["Vary"] = "Accept-Encoding"
    return response


async def _array(values: AsyncGenerator[bytes, None], pace: Pace) -> AsyncGenerator[bytes, None]:
    before = b"["
    async with aclosing(values):
        async for value in values:
            yield before + value
            before = b","
            await pace()
    yield b"[]" if before == b"[" else b"]"


async def _pieces(service: Service, account: str, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield pieces of about `LIST_PIECE` bytes, at least one."""
    with service.lists.one(account):
        piece = bytearray()
        async with aclosing(parts):
            async for part in parts:
                piece += part
                if len(piece) >= LIST_PIECE:
                    yield bytes(piece)
                    piece.clear()
        yield bytes(piece)


async def _rest(first: bytes, second: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces that were read already, then the others. The request's context has ended by then."""
    async with aclosing(pieces):
        yield first
        yield second
        async for piece in pieces:
            yield piece


def _without_length(content_type: str) -> Response:
    """Return the answer to HEAD. It has no `Content-Length`, because that would cost as much as the whole list."""
    response = Response(b"", content_type=content_type)
    response.headers.pop("Content-Length", None)
    return response
