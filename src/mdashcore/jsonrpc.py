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
from typing import Any, Final, NoReturn, TypeAlias

import msgspec
from msgspec import UNSET

from mdashcore import _json, _salvage
from mdashcore._errors import InvalidInput, RpcError

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

# Section 5.1 of the specification.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
APPLICATION_ERROR: Final = -32000

MAX_BATCH: Final = 100  # one frame may not cause more work than this; real devices send no batches
MAX_ID: Final = 256  # bytes: every answer repeats the id, and has to fit into a frame; a UUID has 38
MAX_METHOD: Final = 256  # characters: names appear in errors, events and logs; real ones have 30 at most

MAX_VALUE_DEPTH: Final = _json.MAX_DEPTH - 1  # levels of params or a result: the frame around them adds one

RawJson: TypeAlias = bytes
"""One valid JSON text in UTF-8."""


class ErrorObject(msgspec.Struct, frozen=True, gc=False):
    """The `error` member of a response (section 5.1)."""

    code: int
    message: str
    data: RawJson | None = None

    def exception(self) -> RpcError:
        """Return the error as an exception."""
        try:
            data = None if self.data is None else loads(self.data)
        except InvalidInput:  # valid JSON that no Python value can hold, such as 1e999
            data = self.data.decode() if self.data else None
        return RpcError(self.code, self.message, data)


class Request(msgspec.Struct, frozen=True, gc=False):
    """A call; or a notification, if `id` is `None` (section 4)."""

    method: str
    params: RawJson | None = None
    id: RawJson | None = None
    """Raw JSON of the id. It is echoed unchanged and never interpreted."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """The answer to a call (section 5): `error`, or else `result`."""

    id: RawJson | None
    result: RawJson | None = None
    """`None` if the message has no result member: some devices leave out a null."""
    error: ErrorObject | None = None


class Invalid(msgspec.Struct, frozen=True, gc=False):
    """A text, or a member of a batch, that is not a message. It says how to answer if it was a request."""

    error: ErrorObject
    id: RawJson | None = None
    is_request: bool = True
    """False if it does not look like a request. It may have been an answer, which must not be answered."""


Message: TypeAlias = Request | Response | Invalid
"""The result of decoding a message."""


class _FrameMembers(msgspec.Struct, gc=False):
    """All members that a frame can have. A member has a type if a wrong type must be noticed, and is raw otherwise."""

    id: msgspec.Raw | msgspec.UnsetType = UNSET
    method: str | msgspec.UnsetType = UNSET
    params: msgspec.Raw | msgspec.UnsetType = UNSET
    args: msgspec.Raw | msgspec.UnsetType = UNSET
    nr: msgspec.Raw | msgspec.UnsetType = UNSET
    result: msgspec.Raw | msgspec.UnsetType = UNSET
    error: msgspec.Raw | msgspec.UnsetType = UNSET


class _WireError(msgspec.Struct, gc=False):
    code: int | float = APPLICATION_ERROR
    message: str = ""
    data: msgspec.Raw | msgspec.UnsetType = UNSET


class _WireId(msgspec.Struct, gc=False):
    id: msgspec.Raw = msgspec.Raw()


_decode_frame = msgspec.json.Decoder(_FrameMembers).decode
_decode_id = msgspec.json.Decoder(_WireId).decode
_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode
_decode_batch = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_error = msgspec.json.Decoder(_WireError).decode


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


def as_frame(data: bytes | bytearray | memoryview | str) -> bytes:
    """Return a received frame as immutable `bytes`.

    Raises:
        TypeError: the frame is neither text nor bytes.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode("utf-8", "surrogatepass")
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a frame is text or bytes, not {type(data).__name__}")


def decode(text: bytes | bytearray | memoryview | str) -> Message | list[Message]:
    """Decode a frame. Returns its message, or a list of the messages of a batch; `Invalid` in the place of anything
    else.

    Raises:
        TypeError: the frame is neither text nor bytes.
    """
    if type(text) is not bytes:
        text = as_frame(text)
    if not text.isascii():
        try:
            text.decode()  # the decoder below skips raw members, without checking their UTF-8
        except UnicodeDecodeError:
            return _parse_error("not UTF-8", text)
    if len(text) > 2 * _json.MAX_DEPTH and _json.too_deep(text):
        return _parse_error("nested too deeply", text)
    try:
        wire = _decode_frame(text)
    except _json.DECODE_ERRORS as exc:
        return _decode_odd(text, exc)
    return _classify(wire)


def _decode_odd(text: bytes, exc: Exception) -> Message | list[Message]:
    """Decode a text that is not a plain frame: a batch, a wrong type, or not JSON. This way is slower."""
    if not isinstance(exc, msgspec.ValidationError):
        return _parse_error(_json.place(text, exc), text)
    try:
        _check_syntax(text)  # a wrong type may stand before a syntax error
    except _json.DECODE_ERRORS as error:
        return _parse_error(_json.place(text, error), text)
    if not text.lstrip().startswith(b"["):
        return _invalid_request(text)
    members = _decode_batch(text)
    if not members:
        return Invalid(ErrorObject(INVALID_REQUEST, "Invalid Request: empty batch"))
    if len(members) > MAX_BATCH:
        return Invalid(ErrorObject(INVALID_REQUEST, f"Invalid Request: more than {MAX_BATCH} in a batch"))
    return [_decode_member(bytes(member)) for member in members]


def _decode_member(text: RawJson) -> Message:
    try:
        return _classify(_decode_frame(text))
    except _json.DECODE_ERRORS:
        return _invalid_request(text)


def _invalid_request(text: RawJson) -> Invalid:
    """Return the error for JSON that is not a message, with its id if it has one."""
    try:
        id_ = bytes(_decode_id(text).id)
    except _json.DECODE_ERRORS:  # no object
        id_ = b""
    is_request = _salvage.salvage(text).is_request
    return Invalid(
        ErrorObject(INVALID_REQUEST, "Invalid Request"), id_ if id_ and _acceptable_id(id_) else None, is_request
    )


def _parse_error(why: str, text: bytes) -> Invalid:
    """Return the error for a text that is not JSON, with the id and the kind that can be recovered."""
    is_whole = len(text) <= _salvage.END_SIZE or _json.balanced(text)  # else the end may belong to a nested value
    found = _salvage.salvage(text, text[_salvage.END_SIZE :] if is_whole else b"")
    id_ = found.id if found.id is not None and len(found.id) <= MAX_ID else None
    return Invalid(ErrorObject(PARSE_ERROR, f"Parse error: {why}"), id_, found.is_request)


def _classify(wire: _FrameMembers) -> Message:
    id_ = None if wire.id is UNSET else bytes(wire.id)
    if id_ is not None and (id_[0] not in _ID_STARTS or len(id_) > MAX_ID):
        return Invalid(ErrorObject(INVALID_REQUEST, f"Invalid Request: id is no number or string of {MAX_ID} bytes"))
    if (method := wire.method) is not UNSET:
        if len(method) > MAX_METHOD:
            return Invalid(ErrorObject(INVALID_REQUEST, f"Invalid Request: method over {MAX_METHOD} characters"), id_)
        params = wire.params if wire.params is not UNSET else wire.args
        if wire.nr is not UNSET and bytes(wire.nr) == b"true":
            id_ = None
        return Request(method, None if params is UNSET else bytes(params), id_)
    if wire.error is not UNSET and (error := bytes(wire.error)) != b"null":
        return Response(id_, error=_read_error(error))
    if wire.result is not UNSET:
        return Response(id_, bytes(wire.result))
    if wire.error is not UNSET:
        return Response(id_, b"null")
    if id_ is None:
        return Invalid(ErrorObject(INVALID_REQUEST, "Invalid Request"))
    return Response(id_)


def _acceptable_id(raw: RawJson) -> bool:
    return raw[0] in _ID_STARTS and len(raw) <= MAX_ID


_ID_STARTS = frozenset(b'"-0123456789n')  # a string, a number, or null


def _read_error(raw: RawJson) -> ErrorObject:
    """Return an error object as it was sent. The text of a malformed one becomes the message."""
    try:
        error = _decode_error(raw)
        code = int(error.code)
    except _json.DECODE_ERRORS:
        return ErrorObject(APPLICATION_ERROR, raw.decode(errors="replace"))
    return ErrorObject(code, error.message, None if error.data is UNSET else bytes(error.data))


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
    if type(id) is not bytes or not id or not _acceptable_id(id):
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
