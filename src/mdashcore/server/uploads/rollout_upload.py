"""``POST /rollouts``: the request and the image, in one form; or the request alone, with an image of the library.

The image streams into a blob.

The route is raw ASGI, for the same reasons as the upload for one device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Final

import multipart
import trio

from mdashcore import _json, rollout
from mdashcore._errors import InvalidInput, TooLarge
from mdashcore.documents import KeptRollout, RolloutDocument, RolloutForm, RolloutQuery
from mdashcore.hub.rollouts.describe import describe
from mdashcore.hub.updates.store import blob_key
from mdashcore.ota import UpdateImage
from mdashcore.server.asgi import App, BodyTimeout, Receive, Scope, Send
from mdashcore.server.auth import Principal
from mdashcore.server.endpoints import API, Endpoint, Form
from mdashcore.server.http.bodies import HeldBody
from mdashcore.server.http.guards import check_request
from mdashcore.server.query import check_query, flag
from mdashcore.server.service import Service
from mdashcore.server.uploads.image_body import ImageBody, answer
from mdashcore.server.uploads.kept_image import CheckFit, SentImage, find_kept, keep_image
from mdashcore.trio.transport.stream import READ_SIZE
from mdashcore.trio.turns import Pace, Turn

__all__ = ["RolloutRoute"]

_PATH = f"{API}/rollouts"

_IS_FORM: Final = (
    "a rollout without an image of the library is a form (multipart/form-data) with the fields 'rollout' and 'file'"
)


class RolloutRoute:
    """Answers the requests for new rollouts, in front of an app."""

    endpoint: Final = Endpoint(
        "POST",
        _PATH,
        "Begin a rollout: an image for many devices, in a form with it, or of the library.",
        answers={201: RolloutDocument},
        errors=(404, 408, 409, 413, 415, 507),
        query=RolloutQuery,
        body=Form(RolloutForm, or_json=KeptRollout),
    )

    def __init__(self, service: Service, app: App) -> None:
        self._service = service
        self.inner = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].rstrip("/") != _PATH:
            await self.inner(scope, receive, send)
            return
        form = _Form(scope, receive, self._service)
        failed = "a rollout could not be made"
        await answer(scope, send, form, lambda: self._create(scope, form), failed=failed)

    async def _create(self, scope: Scope, form: _Form) -> tuple[int, bytes]:
        """Store the image and the rollout. Returns status and body of the answer."""
        service = self._service
        principal = await service.authenticator.of_request(scope)
        account = form.owner = principal.account
        check_request(scope, None)
        asked = check_query(scope["query_string"].decode("latin-1"), self.endpoint.parameters)
        flags = {name: flag(name, value) for name, value in asked}
        form.bare = flags.get("bare", False)
        rollouts = service.hub.rollouts
        await rollouts.check_room(account)
        id = rollouts.new_id()

        async def check_fit(image: UpdateImage) -> None:
            await rollouts.check_fit(account, await form.request(), image, Pace(account), bare=form.bare)

        with self._counted(form, account):
            try:
                sent = await self._image(scope, form, principal, id, check_fit, keep=flags.get("keep", False))
                request = await form.request()
                # a rollout that is stored has to start, also if its client has gone
                with trio.CancelScope(shield=True):
                    made = await rollouts.create(
                        account, id, request, sent.facts, Pace(account), blob=sent.blob, check_image=sent.check
                    )
            except BaseException:
                with trio.CancelScope(shield=True):
                    await rollouts.remove_orphan(account, id)
                raise
        return 201, _json.encode(describe(made))

    @contextmanager
    def _counted(self, form: _Form, account: str) -> Iterator[None]:
        """Count the request among the uploads, or its body, which is JSON, among the bodies in memory."""
        if not form.is_json:
            with self._service.uploading(account):
                yield
            return
        with self._service.bodies.hold() as held:
            held.owner, form.held = account, held
            yield

    async def _image(
        self, scope: Scope, form: _Form, principal: Principal, id: str, check_fit: CheckFit, *, keep: bool
    ) -> SentImage:
        """Return the image of the request: from the library, or uploaded, into the library or the blob `id`."""
        service, account = self._service, principal.account
        if form.is_json:
            if keep:
                raise InvalidInput("keep is for an image that is uploaded: that of firmware is kept already")
            await form.read_json()
            # the credentials may have been revoked while the body came
            await service.authenticator.of_request(scope)
            sent = await find_kept(service, account, await form.firmware())
            await check_fit(sent.facts)
            return sent
        if keep:
            entry, _ = await keep_image(service, scope, principal, form, check_fit=check_fit)
            return SentImage.of(service, account, entry)
        blobs, blob = service.hub.rollouts.blobs, blob_key(account, id)
        size = await form.store(blobs, blob)
        await form.request()  # a wrong one is an error before the image is checked
        image = UpdateImage.of(await form.read(blobs, blob, size))
        await check_fit(image)
        # the credentials may have been revoked while the image came
        await service.authenticator.of_request(scope)
        return SentImage(image)


class _Form(ImageBody):
    """A form with the fields ``rollout`` and ``file``, in any order.

    An invalid ``rollout`` before the file is refused immediately. In place of a form the body may be JSON, which names
    an image of the library.
    """

    def __init__(self, scope: Scope, receive: Receive, service: Service) -> None:
        super().__init__(scope, receive, service)
        self._limit = service.settings.max_body
        self._saved = service.hub.saved_filters
        self._text = bytearray()
        self._request: rollout.RolloutRequest | None = None
        self._firmware: object = None
        self.is_json: bool = self._type != "multipart/form-data"
        """Whether the body is no form. It is JSON then, whatever the Content-Type says."""
        self.held: HeldBody | None = None
        """Counts the body if it is JSON, which is kept in memory."""

    async def read_json(self) -> None:
        """Read the body, which is JSON. Raises the error in the body."""
        begun = False
        with trio.move_on_after(self._timeout) as timer:
            async with aclosing(self._all(self.held)) as chunks:
                async for chunk in chunks:
                    self._add_text(chunk)
                    if not begun and (first := self._text.lstrip()[:1]):
                        if first != b"{":  # an image: not to be read to its end
                            raise InvalidInput(_IS_FORM)
                        begun = True
        if timer.cancelled_caught:
            raise BodyTimeout(f"the body did not come within {self._timeout:g} s")
        if self.held is not None:
            self.held.complete()

    async def firmware(self) -> str:
        """Return the id of the image that the body names, which was read. Raises `InvalidInput`."""
        await self.request()
        if not isinstance(self._firmware, str):
            raise InvalidInput(f"firmware has to be the id of an image of the library; {_IS_FORM}")
        return self._firmware

    def _add_text(self, chunk: bytes) -> None:
        self._text += chunk
        if len(self._text) > self._limit:
            raise TooLarge(f"the field 'rollout' is larger than {self._limit} bytes")

    async def request(self) -> rollout.RolloutRequest:
        """Return the requested rollout. Raises `InvalidInput`."""
        if not self._text:
            raise InvalidInput("what the rollout is to be is missing: the field 'rollout', with JSON")
        if self._request is None:
            if len(self._text) > READ_SIZE:  # to decode it is work
                await Turn(self.owner).give_way()
            value = _json.decode_foreign(bytes(self._text))
            if self.is_json and isinstance(value, dict):
                self._firmware = value.pop("firmware", None)
            if self.owner is not None and isinstance(value, dict) and "filter" in value:
                value["filter"] = await self._saved.resolve(self.owner, value["filter"])
            self._request = rollout.parse_request(value)
        return self._request

    async def _begin_file(self, segment: multipart.MultipartSegment) -> None:
        await super()._begin_file(segment)
        if self._text:
            await self.request()  # a wrong one is an error before the image is sent

    def _add_to_field(self, name: str, chunk: bytes) -> None:
        if name == "rollout":
            self._add_text(chunk)
