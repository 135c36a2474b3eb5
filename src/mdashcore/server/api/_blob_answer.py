"""Answers that are blobs: streamed in pieces, whole or in part, and known by their digest."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import quote

from quart import Response, request

from mdashcore.server import errors
from mdashcore.server.api._request import answer, principal, service
from mdashcore.server.asgi import Scope, header, header_list
from mdashcore.server.http.conditions import Conditions
from mdashcore.server.http.ranges import parse_range
from mdashcore.server.service import Service
from mdashcore.storage import BlobStore
from mdashcore.trio.turns import Pace

__all__ = ["send_blob"]

BLOB_PIECE: Final = 2**16  # bytes in memory for each download, as for a list; a client has to take them within the
# connection's time-out


async def send_blob(blobs: BlobStore, key: str, size: int, *, tag: str, file: str) -> Response:
    """Answer with a blob, or with the part of it that the request asks for, as one of the account's downloads.

    Args:
        size: bytes of the blob.
        tag: names its bytes, for ``ETag``.
        file: the name under which a browser stores it.

    Raises:
        LimitReached: the account has as many downloads as it may have.
        Busy: the process has as many as it may have.
    """
    scope = cast(Scope, request.scope)
    headers = {"ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
    conditions = Conditions.of(None, header_list(scope, b"if-none-match"))
    if conditions is not None and (conditions.none_at_all or tag in (conditions.none_match or ())):
        response = Response(b"", HTTPStatus.NOT_MODIFIED, headers)
        for name in ("Content-Type", "Content-Length"):  # 304 has no body
            response.headers.pop(name, None)
        return response
    if_range = header(scope, b"if-range")
    part = parse_range(header(scope, b"range"), size) if if_range in (None, headers["ETag"]) else None
    if part is not None and not part:
        words = f"the image has {size} bytes: there is nothing behind them"
        response = answer(errors.plain_body(416, words), 416)
        response.headers["Content-Range"] = f"bytes */{size}"
        return response
    wanted = range(size) if part is None else part
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    headers["Content-Length"] = str(len(wanted))
    headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(file, safe='')}"
    if request.method == "HEAD":
        response = Response(b"", content_type="application/octet-stream")
    else:
        pieces = _pieces(service(), principal().account, blobs, key, wanted)
        try:
            first = await anext(pieces)  # a failure before the first byte is an answer of its own
        except BaseException:
            await pieces.aclose()
            raise
        response = Response(_with_first(first, pieces), content_type="application/octet-stream")
    response.status_code = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
    response.headers.update(headers)
    return response


async def _pieces(
    service: Service, account: str, blobs: BlobStore, key: str, wanted: range
) -> AsyncGenerator[bytes, None]:
    """Yield the wanted bytes. Raises `NotFound` if the blob is deleted meanwhile: the connection ends then."""
    pace = Pace(account)
    with service.downloading(account):
        for start in range(wanted.start, wanted.stop, BLOB_PIECE):
            yield await blobs.read(key, start, min(BLOB_PIECE, wanted.stop - start))
            await pace()


async def _with_first(first: bytes, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        yield first
        async for piece in pieces:
            yield piece
    finally:
        await pieces.aclose()
