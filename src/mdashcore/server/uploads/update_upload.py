"""``POST /devices/:id/ota``: an image streams from the request into a blob, and from there into the device.

`mdashcore.server.uploads.update_query` parses the query.

The route is raw ASGI: it asks for the next piece of the body after the last one is stored, so memory does not grow with
the image.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, BinaryIO, Final, Literal, cast

import multipart
import trio

from mdashcore import _json, firmware, ota
from mdashcore._errors import (
    CallTimeout,
    Conflict,
    Damaged,
    DeviceOffline,
    InvalidFirmware,
    InvalidInput,
    MdashError,
    RpcError,
    StorageError,
)
from mdashcore.documents import DeviceId, ImageForm, UpdateDocument, UpdateQuery
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
from mdashcore.ota import Update, UpdateState
from mdashcore.server.asgi import (
    App,
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
from mdashcore.server.endpoints import API, Endpoint, Form
from mdashcore.server.http.bodies import body_chunks
from mdashcore.server.http.guards import check_request
from mdashcore.server.service import Service
from mdashcore.server.uploads.image_check import HEAD_SIZE, check_head, check_segment
from mdashcore.server.uploads.update_query import UpdateRequest
from mdashcore.storage import BlobStore

__all__ = ["ImageBody", "UploadRoute", "answer"]

_log = logging.getLogger(__name__)

_PATH = re.compile(rf"{API}/devices/([^/]+)/ota/?")

UPLOAD_TIMEOUT: Final = 1800.0  # seconds for a whole image: 256 MiB at 150 kB/s; a slower client would hold its place
# too long

START_TIMEOUT: Final = 45.0  # seconds in which an update without `queue` has to begin: the introduction of a new
# connection, or the way to another node, takes less


class UploadRoute:
    """Answers the uploads of images, in front of an app."""

    endpoint: Final = Endpoint(
        "POST",
        f"{API}/devices/<id>/ota",
        "Update the device with an image. Answers when the device has the whole image.",
        answers={200: Literal[True], 202: UpdateDocument},
        errors=(408, 409, 413, 415, 422, 502, 504, 507),
        query=UpdateQuery,
        body=Form(ImageForm, or_file=True),
        places={"id": DeviceId},
    )

    def __init__(self, service: Service, app: App) -> None:
        self._service = service
        self.inner = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if match is None:
            await self.inner(scope, receive, send)
            return
        device = match[1]
        body = ImageBody(scope, receive, self._service)
        await answer(scope, send, body, lambda: self._update(scope, body, device), failed="an upload failed")

    async def _update(self, scope: Scope, body: ImageBody, device: str) -> tuple[int, bytes]:
        """Store the image, and update the device with it. Returns status and body of the answer.

        Raises:
            MdashError: the upload or the update has failed; the client gets this error.
        """
        service = self._service
        account = body.owner = (await service.authenticator.of_request(scope)).account
        check_request(scope, None)
        request = UpdateRequest.of(scope["query_string"].decode("latin-1"))
        body.bare = request.bare
        key = DeviceKey.find(account, device)
        await service.hub.registry.get(key)
        if not request.queue and not await self._is_online(key):
            raise DeviceOffline(f"device {device!r} is not connected")
        updates = service.hub.updates
        try:
            present = await updates.get(key)
        except Damaged:
            present = None  # the new update takes its place
        if present is not None and not ota.can_supersede(present):
            raise Conflict(f"an update of {device!r} is going on already, it is {present.state}")
        id_ = updates.new_id()
        blob = blob_key(account, id_)
        with service.uploading(account, key):
            try:
                size = await body.store(updates.blobs, blob)
                image = await body.read(updates.blobs, blob, size)
                # the credentials may have been revoked while the image came
                await service.authenticator.of_request(scope)
                if not request.options.force:
                    await updates.check_fit(key, image, bare=request.bare)
                update = await service.node.update_supervisor.start(key, id_, image, request.options)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await updates.blobs.delete(blob)
                raise
        if request.queue:
            return 202, _json.encode(updates.describe(key, update))
        await self._wait_received(key, id_)
        return 200, b"true"

    async def _is_online(self, key: DeviceKey) -> bool:
        """Return whether the device is connected, to this node or to another."""
        if key in self._service.node.devices:
            return True
        return (await self._service.hub.presence.get(key)).online

    async def _wait_received(self, key: DeviceKey, id: str) -> None:
        """Wait until the device has confirmed the whole image. Raises the reason if the update ended before."""
        updater = self._service.node.update_supervisor
        with trio.move_on_after(START_TIMEOUT) as timer:
            await updater.wait(key, lambda update: update.state is not UpdateState.QUEUED, id=id)
        if timer.cancelled_caught:
            try:
                await updater.cancel(key)
            except Conflict:
                pass  # the update has begun at the last moment
            else:
                raise DeviceOffline(f"device {key.id!r} has gone before the update began")
        update = await updater.wait(key, lambda update: update.image_taken, id=id)
        if not update.image_taken:
            raise _outcome(update)


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
        self.owner: str | None = None
        """The account that sends the image, as soon as it is authenticated."""
        self._chunks = body_chunks(
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

    async def _all(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                yield chunk
        self.complete = True

    def _begin_file(self, segment: multipart.MultipartSegment) -> None:
        """Check the head of the field ``file``, and take its file name. Raises the error in the head."""
        check_segment(segment.filename, segment.headerlist)
        self.filename = segment.filename[:256]

    async def _form(self) -> AsyncGenerator[bytes, None]:
        wanted = found = False
        try:
            with multipart.PushMultipartParser(self._options.get("boundary", ""), max_segment_count=16) as parser:
                async with aclosing(self._all()) as chunks:
                    async for chunk in chunks:
                        for event in parser.parse(chunk):
                            if isinstance(event, multipart.MultipartSegment):
                                wanted = event.name == "file" and not found
                                found = found or wanted
                                if wanted:
                                    self._begin_file(event)
                            elif event and wanted:
                                yield bytes(event)
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


def _outcome(update: Update) -> MdashError:
    """Return the error for an update that ended before the device had the image.

    The text is the device's own, if it gave any.
    """
    words = update.reason or f"the update ended as {update.state}"
    if update.state is UpdateState.TIMED_OUT:
        return CallTimeout(words)
    if update.state in (UpdateState.FAILED, UpdateState.REJECTED):
        return RpcError(-1, words)
    return Conflict(words)
