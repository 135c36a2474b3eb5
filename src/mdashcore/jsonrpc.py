"""JSON-RPC 2.0 framing, with the dialect of Mongoose OS.

The functions translate between texts and messages. They keep no state: `mdashcore.Connection` matches answers to
calls.

The dialect (the frames that real devices send and expect):

* ``"jsonrpc"`` is sent and not required; unknown members (``src``, ``dst``, ``tag``, ``v``) are ignored.
* ``args`` is read if there is no ``params``; params may be any JSON value.
* a request with ``"nr": true`` wants no reply: it is a notification.
* a message without ``method`` is a response; ``{"id": 7}`` alone is a response without a result.

`params` and `result` are *raw JSON*: `bytes` that hold one valid JSON text in UTF-8. They pass through
unchanged; `loads` decodes them. A function that sends a value takes `bytes` as raw JSON and encodes any
other value.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NoReturn

import msgspec

from mdashcore import _json
from mdashcore._decoding import as_frame, decode
from mdashcore._errors import InvalidInput
from mdashcore._messages import (
    APPLICATION_ERROR,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_ID,
    MAX_METHOD,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    ErrorObject,
    Invalid,
    Message,
    RawJson,
    Request,
    Response,
    is_id,
)

__all__ = [
    "APPLICATION_ERROR",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "ErrorObject",
    "Invalid",
    "Message",
    "RawJson",
    "Request",
    "Response",
    "decode",
    "dumps",
    "encode_batch",
    "encode_error",
    "encode_request",
    "encode_result",
    "loads",
]

MAX_VALUE_DEPTH: Final = _json.MAX_DEPTH - 1  # levels of params or a result: the frame around them adds one


def dumps(value: object) -> RawJson:
    """Encode a value as raw JSON: compact, in UTF-8, with the keys in their order.

    Args:
        value: `None`, a bool, a finite number, text, a list or tuple, or a dict whose keys are text.

    Raises:
        InvalidInput: the value is, or holds, anything else, such as NaN or bytes; or is nested deeper than 63 levels.
    """
    return _json.encode_strictly(value, max_depth=MAX_VALUE_DEPTH)


def loads(raw: bytes | str) -> Any:
    """Decode raw JSON.

    Raises:
        InvalidInput: the text is not JSON, or is nested deeper than 64 levels.
    """
    return _json.decode(raw if type(raw) is bytes or isinstance(raw, str) else as_frame(raw))


def to_raw(value: object) -> RawJson:
    """Return `bytes` as they are, if they are JSON, and encode any other value with `dumps`.

    A `msgspec.Raw` holds JSON that the caller has made or checked. It is not checked again.

    Raises:
        InvalidInput: the bytes are not JSON, or the value has no JSON form.
    """
    if type(value) is bytes:
        _json.check(value, max_depth=MAX_VALUE_DEPTH)
        return value
    if type(value) is msgspec.Raw:
        return bytes(value)
    return _json.encode_strictly(value, max_depth=MAX_VALUE_DEPTH)


def encode_request(method: str, params: object = None, id: int | None = None) -> bytes:
    """Encode a call, or a notification if `id` is `None`.

    Args:
        method: text of at most 256 characters.
        params: `bytes` are raw JSON; any other value is encoded; `None` sends no params.
        id: the id of the call.

    Raises:
        InvalidInput: the method is not text of at most 256 characters that UTF-8 can hold, the params have no JSON
            form, or the id is not an int.
    """
    name = _method(method) if type(method) is str else _no_method()
    if id is None:
        head = b'{"jsonrpc":"2.0"'
    elif type(id) is int:
        head = b'{"jsonrpc":"2.0","id":%d' % id
    else:
        raise InvalidInput("the id of a call is a whole number")
    if params is None:
        return b'%b,"method":%b}' % (head, name)
    return b'%b,"method":%b,"params":%b}' % (head, name, to_raw(params))


@lru_cache(maxsize=256)  # as many methods as a fleet of a few products uses
def _method(method: str) -> RawJson:
    return dumps(method) if len(method) <= MAX_METHOD else _no_method()


def _no_method() -> NoReturn:
    raise InvalidInput(f"a method's name is text of at most {MAX_METHOD} characters")


def encode_result(id: RawJson, result: object = None) -> bytes:
    """Encode a successful response.

    Args:
        id: the `Request.id` of the request.
        result: `bytes` are raw JSON; any other value is encoded.

    Raises:
        InvalidInput: the id is not one of a request, or the result has no JSON form.
    """
    return result_frame(_checked_id(id), to_raw(result))


def result_frame(id: RawJson, result: RawJson) -> bytes:
    """Return the response with an id and a result that were checked."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id, result)


def encode_error(id: RawJson | None, error: ErrorObject) -> bytes:
    """Encode a failed response.

    Args:
        id: the `Request.id` of the request; `None` if it could not be read.
        error: the error object to send.

    Raises:
        InvalidInput: the id is not one of a request, or a member of the error has a wrong type.
    """
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (b"null" if id is None else _checked_id(id), _error(error))


def _error(error: object) -> RawJson:
    if not isinstance(error, ErrorObject) or not _is_whole(error.code) or type(error.message) is not str:
        raise InvalidInput("an error has a whole number as its code, and a message that is text")
    data = b"" if error.data is None else b',"data":%b' % to_raw(error.data)
    return b'{"code":%d,"message":%b%b}' % (error.code, dumps(error.message), data)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked_id(id: RawJson) -> RawJson:
    if type(id) is not bytes or not id or not is_id(id):
        raise InvalidInput(f"the id of a request is a number, a text or null, in raw JSON of at most {MAX_ID} bytes")
    _json.check(id)
    return id


def encode_batch(parts: Iterable[bytes]) -> bytes:
    """Join encoded messages into one batch (section 6).

    Raises:
        InvalidInput: there are no messages, or one of them is not JSON.
    """
    messages = list(parts)
    if not messages:
        raise InvalidInput("a batch has one message at least")
    for message in messages:
        if type(message) is not bytes:
            raise InvalidInput(f"an encoded message is bytes, not {type(message).__name__}")
        _json.check(message)
    return _json.json_array(messages)
