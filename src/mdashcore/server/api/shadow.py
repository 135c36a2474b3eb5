"""``/devices/:id/shadow``: the desired and the reported state of a device."""

from __future__ import annotations

from http import HTTPStatus
from typing import cast

from quart import Response, request

from mdashcore.documents import AcceptedShadow, DeviceId, ShadowDocument, ShadowUpdate
from mdashcore.server import operations
from mdashcore.server.api._request import answer, device_key, raw_body, service
from mdashcore.server.asgi import Scope, header_list
from mdashcore.server.endpoints import API, Routes
from mdashcore.server.http.conditions import Conditions, etag

routes: Routes = Routes(f"{API}/devices/<id>/shadow", id=DeviceId)


@routes.get(conditional=True, answers={200: ShadowDocument, 304: None}, errors=(412,))
async def get_shadow(id: str) -> Response:
    """Answer with the shadow. Its version is the entity tag."""
    return _answer(await operations.read_shadow(service(), device_key(id), _conditions()))


@routes.post(
    conditional=True,
    body=ShadowUpdate,
    open_body=True,
    max_body=operations.MAX_BODY,
    answers={200: AcceptedShadow},
    errors=(409,),
)
async def update_shadow(id: str) -> Response:
    """Update the shadow. Answers with the accepted state and its version."""
    body = await raw_body()
    return _answer(await operations.update_shadow(service(), device_key(id), body, _conditions()))


def _conditions() -> Conditions | None:
    """Return the request's conditions on the shadow's version."""
    scope = cast(Scope, request.scope)
    return Conditions.of(header_list(scope, b"if-match"), header_list(scope, b"if-none-match"))


def _answer(found: operations.Versioned) -> Response:
    if found.body is not None:
        response = answer(found.body)
    else:
        response = Response(b"", HTTPStatus.NOT_MODIFIED)
        for name in ("Content-Type", "Content-Length"):  # 304 has no body
            response.headers.pop(name, None)
    response.headers["ETag"] = etag(found.version)
    return response
