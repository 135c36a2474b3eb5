"""``POST /devices/:id/ota``: an image streams from the request into a blob, and from there into the device.

`mdashcore.server.uploads.update_query` parses the query.

The route is raw ASGI: it asks for the next piece of the body after the last one is stored, so memory does not grow with
the image.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Final, Literal

import trio

from mdashcore import _json, ota
from mdashcore._errors import CallTimeout, Conflict, Damaged, DeviceOffline, MdashError, RpcError
from mdashcore.documents import DeviceId, ImageForm, UpdateDocument, UpdateQuery
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
from mdashcore.ota import Update, UpdateState
from mdashcore.server.asgi import App, Receive, Scope, Send, has_body
from mdashcore.server.auth import Principal
from mdashcore.server.endpoints import API, Endpoint, Form
from mdashcore.server.http.guards import check_request
from mdashcore.server.service import Service
from mdashcore.server.uploads.image_body import ImageBody, answer
from mdashcore.server.uploads.kept_image import CheckFit, SentImage, find_kept, keep_image
from mdashcore.server.uploads.update_query import UpdateRequest

__all__ = ["UploadRoute"]

_PATH = re.compile(rf"{API}/devices/([^/]+)/ota/?")

START_TIMEOUT: Final = 45.0  # seconds in which an update without `queue` has to begin: the introduction of a new
# connection, or the way to another node, takes less


class UploadRoute:
    """Answers the uploads of images, in front of an app."""

    endpoint: Final = Endpoint(
        "POST",
        f"{API}/devices/<id>/ota",
        "Update the device with an image, from the body or the library. Answers when the device has the whole image.",
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
        principal = await service.authenticator.of_request(scope)
        account = body.owner = principal.account
        check_request(scope, None)
        request = UpdateRequest.of(scope["query_string"].decode("latin-1"))
        body.bare = request.bare
        if request.firmware is not None and has_body(scope):
            await body.expect_none("an update with firmware, which names an image of the library, has no body")
            # the credentials may have been revoked until the end came
            await service.authenticator.of_request(scope)
        elif request.firmware is not None:
            body.complete = True
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

        async def check_fit(image: ota.UpdateImage) -> None:
            if not request.options.force:
                await updates.check_fit(key, image, bare=request.bare)

        with nullcontext() if request.firmware is not None else service.uploading(account, key):
            try:
                sent = await self._image(scope, body, principal, id_, request, check_fit)
                update = await service.node.update_supervisor.start(
                    key, id_, sent.facts, request.options, blob=sent.blob, check_image=sent.check
                )
            except BaseException:
                with trio.CancelScope(shield=True):
                    await updates.blobs.delete(blob_key(account, id_))
                raise
        if request.queue:
            return 202, _json.encode(updates.describe(key, update))
        await self._wait_received(key, id_)
        return 200, b"true"

    async def _image(
        self,
        scope: Scope,
        body: ImageBody,
        principal: Principal,
        id: str,
        request: UpdateRequest,
        check_fit: CheckFit,
    ) -> SentImage:
        """Return the image of the request: from the library, or uploaded, into the library or the blob `id`."""
        service, account = self._service, principal.account
        if request.firmware is not None:
            sent = await find_kept(service, account, request.firmware)
            await check_fit(sent.facts)
            return sent
        if request.keep:
            entry, _ = await keep_image(service, scope, principal, body, check_fit=check_fit)
            return SentImage.of(service, account, entry)
        blobs, blob = service.hub.updates.blobs, blob_key(account, id)
        size = await body.store(blobs, blob)
        image = ota.UpdateImage.of(await body.read(blobs, blob, size))
        await check_fit(image)
        # the credentials may have been revoked while the image came
        await service.authenticator.of_request(scope)
        return SentImage(image)

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
