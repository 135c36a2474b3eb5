"""``POST /firmware``: an image streams from the request into the library.

The route is raw ASGI, for the same reasons as the upload for one device.
"""

from __future__ import annotations

from typing import Final

from mdashcore import _json
from mdashcore.documents import FirmwareDocument, FirmwareUploadQuery, ImageForm
from mdashcore.hub.firmware.describe import describe
from mdashcore.server.asgi import App, Receive, Scope, Send
from mdashcore.server.endpoints import API, Endpoint, Form
from mdashcore.server.http.guards import check_request
from mdashcore.server.query import check_query, flag
from mdashcore.server.service import Service
from mdashcore.server.uploads.image_body import ImageBody, answer
from mdashcore.server.uploads.kept_image import keep_image

__all__ = ["FirmwareRoute"]

_PATH: Final = f"{API}/firmware"


class FirmwareRoute:
    """Answers the uploads into the library, in front of an app."""

    endpoint: Final = Endpoint(
        "POST",
        _PATH,
        "Add an image to the library. An image that is there already is answered with 200, and stays as it is.",
        answers={200: FirmwareDocument, 201: FirmwareDocument},
        errors=(408, 409, 413, 415, 507),
        query=FirmwareUploadQuery,
        body=Form(ImageForm, or_file=True),
    )

    def __init__(self, service: Service, app: App) -> None:
        self._service = service
        self.inner = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].rstrip("/") != _PATH:
            await self.inner(scope, receive, send)
            return
        body = ImageBody(scope, receive, self._service)
        await answer(scope, send, body, lambda: self._add(scope, body), failed="an image could not be kept")

    async def _add(self, scope: Scope, body: ImageBody) -> tuple[int, bytes]:
        """Store the image. Returns status and body of the answer."""
        service = self._service
        principal = await service.authenticator.of_request(scope)
        body.owner = principal.account
        check_request(scope, None)
        given = dict(check_query(scope["query_string"].decode("latin-1"), self.endpoint.parameters))
        body.bare = "bare" in given and flag("bare", given["bare"])
        with service.uploading(principal.account):
            entry, is_new = await keep_image(
                service, scope, principal, body, name=given.get("name", ""), notes=given.get("notes", "")
            )
        return (201 if is_new else 200), _json.encode(describe(entry))
