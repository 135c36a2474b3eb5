"""The image in the body of a request: streamed into a blob, and checked there."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, BinaryIO, Final, cast

import multipart
import trio

from mdashcore import firmware
from mdashcore._errors import InvalidFirmware, InvalidInput, MdashError, StorageError
from mdashcore.server.asgi import (
    BodyTimeout,
    ClientGone,
    Receive,
    Scope,
    Send,
    header,
    is_from_page,
    respond,
    respond_error,
)
from mdashcore.server.http.bodies import HeldBody, body_chunks
from mdashcore.server.service import Service
from mdashcore.server.uploads.image_check import HEAD_SIZE, check_head, check_segment
from mdashcore.storage import BlobStore

__all__ = ["ImageBody", "answer"]

_log = logging.getLogger(__name__)

UPLOAD_TIMEOUT: Final = 1800.0  # seconds for a whole image: 256 MiB at 150 kB/s; a slower client would hold its place
# too long


async def answer(
    scope: Scope,
    send: Send,
    body: ImageBody,
    handle: Callable[[], Awaitable[tuple[int, bytes]]],
    *,
    failed: str,
) -> None:
    """Send the status and body that `handle` returns, or the error that it raises.

    Args:
        failed: the beginning of the log line for an error of the server.
    """
    try:
        status, content = await handle()
    except ClientGone:
        return
    except MdashError as exc:
        if isinstance(exc, StorageError):
            _log.error("%s: %s", failed, exc)
        await respond_error(send, exc, unread=not body.complete, from_page=is_from_page(scope))
        return
    except Exception:
        _log.exception(failed)
        await respond_error(send, MdashError("internal error"), unread=not body.complete)
        return
    await respond(send, status, content)


class ImageBody:
    """The image in a request's body: the field ``file`` of a form, or the whole body."""

    def __init__(self, scope: Scope, receive: Receive, service: Service) -> None:
        settings = service.settings
        self._max_image = settings.max_image
        self._timeout = 2 * settings.body_timeout  # seconds for a whole body that is no image, as `BodyGuard` gives it
        self.owner: str | None = None
        """The account that sends the image, as soon as it is authenticated."""
        self._read = partial(
            body_chunks,
            scope,
            receive,
            limit=settings.max_image,
            timeout=settings.body_timeout,
            owner=lambda: self.owner,
        )
        self._type, self._options = multipart.parse_options_header(header(scope, b"content-type") or "")
        self.complete: bool = False
        """Whether the body was read to its end."""
        self.bare = False
        """Whether the image is taken as a bare one, whatever it looks like."""
        self.filename: str = "image"

    async def store(self, blobs: BlobStore, key: str) -> int:
        """Stream the image into a blob. Returns its size in bytes. Raises the error in the body."""
        with trio.move_on_after(UPLOAD_TIMEOUT) as timer:
            async with aclosing(self._image()) as chunks:
                size = await blobs.put(key, chunks)
        if timer.cancelled_caught:
            raise BodyTimeout(f"the image did not come within {UPLOAD_TIMEOUT:g} s")
        return size

    async def read(self, blobs: BlobStore, key: str, size: int) -> firmware.Image:
        """Read the image from its blob. Raises the error in the image."""
        limits = firmware.FirmwareLimits(size=self._max_image)
        return await trio.to_thread.run_sync(_read_image, blobs, key, size, self.filename, limits, self.bare)

    async def _image(self) -> AsyncGenerator[bytes, None]:
        """Yield the image's bytes as they come. The first ones are held back until they are checked."""
        head, checked = b"", False
        async with aclosing(self._form() if self._type == "multipart/form-data" else self._all()) as chunks:
            async for chunk in chunks:
                if checked:
                    yield chunk
                    continue
                head += chunk
                if len(head) >= HEAD_SIZE:
                    self._check(head)
                    checked = True
                    yield head
        if not head:
            raise InvalidFirmware("the image is empty, or not in the field 'file'")
        if not checked:
            self._check(head)
            yield head

    def _check(self, head: bytes) -> None:
        if not self.bare:
            check_head(head[:HEAD_SIZE], self.filename)

    async def expect_none(self, words: str) -> None:
        """Read the body, which has to be empty. Raises `InvalidInput` with these words at its first byte."""
        with trio.move_on_after(self._timeout) as timer:
            async with aclosing(self._all()) as chunks:
                async for _ in chunks:
                    raise InvalidInput(words)
        if timer.cancelled_caught:
            raise BodyTimeout(f"the end of the body did not come within {self._timeout:g} s")

    async def _all(self, held: HeldBody | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the whole body. `held` counts the pieces that are kept in memory."""
        async with aclosing(self._read(held=held)) as chunks:
            async for chunk in chunks:
                yield chunk
        self.complete = True

    async def _begin_file(self, segment: multipart.MultipartSegment) -> None:
        """Check the head of the field ``file``, and take its file name. Raises the error in the head."""
        check_segment(segment.filename, segment.headerlist)
        self.filename = segment.filename[:256]

    def _add_to_field(self, name: str, chunk: bytes) -> None:
        """Take a part of another field than ``file``. Here all are ignored."""

    async def _form(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the field ``file``. A second field of the same name is ignored."""
        name: str | None = None
        seen: set[str] = set()
        try:
            with multipart.PushMultipartParser(self._options.get("boundary", ""), max_segment_count=16) as parser:
                async with aclosing(self._all()) as chunks:
                    async for chunk in chunks:
                        for event in parser.parse(chunk):
                            if isinstance(event, multipart.MultipartSegment):
                                name = None if event.name in seen else event.name
                                seen.add(event.name)
                                if name == "file":
                                    await self._begin_file(event)
                            elif event and name == "file":
                                yield bytes(event)
                            elif event and name is not None:
                                self._add_to_field(name, bytes(event))
        except multipart.MultipartError as exc:
            raise InvalidInput(f"the form cannot be read: {exc}") from None


def _read_image(
    blobs: BlobStore, key: str, size: int, name: str, limits: firmware.FirmwareLimits, bare: bool
) -> firmware.Image:
    """Check the image in its blob; for a thread."""
    file = io.BufferedReader(_BlobFile(blobs, key, size), buffer_size=2**16)
    return firmware.read_image(cast(BinaryIO, file), name=name, limits=limits, bare=bare)


class _BlobFile(io.RawIOBase):
    """A blob as a file, for a thread that Trio has started."""

    def __init__(self, blobs: BlobStore, key: str, size: int) -> None:
        self._blobs = blobs
        self._key = key
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data: bytes = trio.from_thread.run(self._blobs.read, self._key, self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
