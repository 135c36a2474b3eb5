"""``/devices/:id/rpc``: the bridge between REST and a device's JSON-RPC."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Final

import trio
from msgspec import Meta
from quart import Response, request

from mdashcore import _json, jsonrpc
from mdashcore._errors import InvalidInput, MdashError, RpcError, status_of
from mdashcore._messages import MAX_METHOD
from mdashcore.documents import CallQuery, DeviceId, FrameDocument
from mdashcore.identity import DeviceKey
from mdashcore.jsonrpc import ErrorObject, Invalid, Message, Request
from mdashcore.server import errors, operations
from mdashcore.server.api._request import answer, device_key, raw_body, service
from mdashcore.server.endpoints import API, Routes

MethodName = Annotated[str, Meta(description="a method of the device", min_length=1, max_length=MAX_METHOD)]

routes: Routes = Routes(f"{API}/devices/<id>/rpc", id=DeviceId, method=MethodName)

_CALL: Final[dict[str, Any]] = {
    "query": CallQuery,
    "max_body": operations.MAX_BODY,
    "answers": {200: Any},
    "errors": (413, 422, 502, 504),
}

MAX_REST_BATCH = 25  # a Mongoose device queues 25 frames


@routes.post("/<method>", body=Any, **_CALL)
@routes.get("/<method>", summary="Call a method without params. Answers with the bare result.", **_CALL)
async def call(id: str, method: str) -> Response:
    """Call a method with the body as its params. Answers with the bare result, exactly as the device wrote it."""
    timeout = request.args.get("timeout")
    return answer(await operations.call(service(), device_key(id), method, await raw_body(), timeout))


@routes.post(
    query=CallQuery,
    body=FrameDocument | list[Any],
    open_body=True,
    max_body=operations.MAX_BODY,
    answers={200: FrameDocument | list[FrameDocument], 204: None},
    errors=(502, 504),
)
async def frame(id: str) -> Response:
    """Pass on a whole JSON-RPC frame or a batch. Answers with a frame, also for errors."""
    key = device_key(id)
    await service().hub.registry.get(key)
    timeout = service().call_timeout(request.args.get("timeout"))
    message = jsonrpc.decode(await raw_body())
    if not isinstance(message, list):
        status, reply = await _pass_on(key, message, timeout)
        return Response(b"", HTTPStatus.NO_CONTENT) if reply is None else answer(reply, status)
    if len(message) > MAX_REST_BATCH:
        raise InvalidInput(f"a batch has at most {MAX_REST_BATCH} members")
    replies: list[bytes | None] = [None] * len(message)

    async def one(index: int, member: Message) -> None:
        _, replies[index] = await _pass_on(key, member, timeout)

    async with trio.open_nursery() as nursery:
        for index, member in enumerate(message):
            nursery.start_soon(one, index, member)
    present = [reply for reply in replies if reply is not None]
    return answer(_json.json_array(present)) if present else Response(b"", HTTPStatus.NO_CONTENT)


async def _pass_on(key: DeviceKey, message: Message, timeout: float) -> tuple[int, bytes | None]:
    """Return the HTTP status and the reply of a frame.

    A notification has no reply. A device's own error is a reply like any other.
    """
    if not isinstance(message, Request):
        not_a_call = ErrorObject(jsonrpc.INVALID_REQUEST, "Invalid Request: not a call")
        error = message.error if isinstance(message, Invalid) else not_a_call
        return HTTPStatus.BAD_REQUEST, jsonrpc.encode_error(message.id, error)
    try:
        if message.id is None:
            await service().node.user_calls.notify(key, message.method, message.params)
            return HTTPStatus.NO_CONTENT, None
        result = await service().node.user_calls.call(key, message.method, message.params, timeout=timeout)
    except RpcError as exc:
        data = None if exc.data is None else jsonrpc.dumps(exc.data)
        return HTTPStatus.OK, jsonrpc.encode_error(message.id, ErrorObject(exc.code, exc.message, data))
    except MdashError as exc:
        status = status_of(exc)
        return status, jsonrpc.encode_error(message.id, ErrorObject(status, errors.message(exc)))
    return HTTPStatus.OK, jsonrpc.encode_result(message.id, result)
