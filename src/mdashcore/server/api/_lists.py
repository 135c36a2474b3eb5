"""Answers that are lists: encoded as they are read, and sent in pieces. Other requests get their turn in between.

A client that does not read pauses the scan, and holds one piece in memory. A list that fails in the middle ends its
connection without the last chunk, so that it never looks complete.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Final

from quart import Response, request

from mdashcore import _json
from mdashcore.server.api._request import answer, principal, service
from mdashcore.server.service import Service
from mdashcore.trio.turns import Pace

__all__ = ["send_list", "send_pieces", "send_values"]

LIST_PIECE: Final = 2**16  # bytes sent at a time; a client has to take them within the connection's time-out


async def send_list(values: AsyncGenerator[bytes, None], pace: Pace) -> Response:
    """Answer with a JSON array, as one of the lists that the account has in flight.

    Args:
        values: the elements, each as JSON.
        pace: awaited between two elements.

    Raises:
        LimitReached: the account has as many lists in flight as it may have.
        MdashError: as `values` raises before the first piece is full.
    """
    return await send_pieces(_array(values, pace), "application/json")


async def send_pieces(parts: AsyncGenerator[bytes, None], content_type: str) -> Response:
    """Answer with the output of a generator, as one of the account's lists.

    An answer that fits into one piece has a `Content-Length`.
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
        return answer(first) if content_type == "application/json" else Response(first, content_type=content_type)
    return Response(_rest(first, second, pieces), content_type=content_type)


async def send_values(values: Iterable[Any]) -> Response:
    """Answer with a JSON array of values that are in memory. Such short lists do not count as lists in flight."""
    pace = Pace(principal().account)
    parts = []
    for value in values:
        parts.append(_json.encode(value))
        await pace()
    return answer(_json.json_array(parts))


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
