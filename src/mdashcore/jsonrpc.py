"""JSON-RPC 2.0 framing, with the dialect of Mongoose OS.

One text goes in, messages come out; messages go in, one text comes out. No state: who called whom is the
business of `mdashcore.Connection`.

The dialect (what real devices send and expect):

* ``"jsonrpc"`` is sent and not required; unknown members (``src``, ``dst``, ``tag``, ``v``) are ignored.
* ``args`` is read where there is no ``params``; params may be any JSON value.
* a request with ``"nr": true`` wants no reply: it is a notification.
* a response is what has no ``method``; ``{"id": 7}`` alone is a response without a result.

`params` and `result` are *raw JSON*: `bytes` that hold one valid JSON text in UTF-8. They pass through
unchanged; `loads` makes a value of them. Wherever a value is sent, `bytes` are taken as raw JSON and anything
else is encoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

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

MAX_BATCH: Final = 100  # one frame may not become more work than this; real devices send none
MAX_ID: Final = 256  # bytes: every answer repeats the id, and has to fit a frame; a UUID has 38
MAX_METHOD: Final = 256  # characters: names are put into errors, events and logs; real ones have 30 at most

MAX_VALUE_DEPTH: Final = _json.MAX_DEPTH - 1  # levels of params or a result: the frame around them is one too

RawJson: TypeAlias = bytes
"""One valid JSON text in UTF-8."""


class ErrorObject(msgspec.Struct, frozen=True, gc=False):
    """The `error` member of a response (section 5.1)."""

    code: int
    message: str
    data: RawJson | None = None

    def exception(self) -> RpcError:
        """The error as something to raise."""
        try:
            data = None if self.data is None else loads(self.data)
        except InvalidInput:  # valid JSON, but no value here has room for it: 1e999, say
            data = self.data.decode() if self.data else None
        return RpcError(self.code, self.message, data)


class Request(msgspec.Struct, frozen=True, gc=False):
    """A call, or a notification where `id` is None (section 4)."""

    method: str
    params: RawJson | None = None
    id: RawJson | None = None
    """The id exactly as it was written: to be echoed, not to be understood."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """The answer to a call (section 5): `error`, or else `result`."""

    id: RawJson | None
    result: RawJson | None = None
    """None where the message has no result member: some devices leave out a null."""
    error: ErrorObject | None = None


class Invalid(msgspec.Struct, frozen=True, gc=False):
    """A text, or a member of a batch, that is no message: what to answer, if it was a request."""

    error: ErrorObject
    id: RawJson | None = None
    is_request: bool = True
    """False where it does not look like a request: it may have been an answer, which is not to be answered."""


Message: TypeAlias = Request | Response | Invalid


class _Wire(msgspec.Struct, gc=False):
    """All that a frame can hold. Typed where a wrong type has to be noticed, raw elsewhere."""

    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    args: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    nr: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _WireError(msgspec.Struct, gc=False):
    code: int | float = APPLICATION_ERROR
    message: str = ""
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _WireId(msgspec.Struct, gc=False):
    id: msgspec.Raw = msgspec.Raw()


_decode_frame = msgspec.json.Decoder(_Wire).decode
_decode_id = msgspec.json.Decoder(_WireId).decode
_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode
_decode_batch = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_error = msgspec.json.Decoder(_WireError).decode


def dumps(value: object) -> RawJson:
    """Encode a value as raw JSON: compact, in UTF-8, with the keys in their order.

    Args:
        value: None, a bool, a finite number, text, a list or tuple, or a dict whose keys are text.

    Raises:
        InvalidInput: it is, or holds, anything else, such as NaN or bytes; or it nests deeper than 63 levels.
    """
    return _json.encode_strictly(value, max_depth=MAX_VALUE_DEPTH)


def loads(raw: bytes | str) -> Any:
    """Decode raw JSON.

    Raises:
        InvalidInput: it is no JSON, or nested deeper than 64 levels.
    """
    return _json.decode(raw if isinstance(raw, str) else as_frame(raw))


def to_raw(value: object) -> RawJson:
    """Take `bytes` as raw JSON, and encode anything else as `dumps` does.

    Raises:
        InvalidInput: the bytes are no JSON, or the value has no JSON form.
    """
    if type(value) is bytes:
        _json.check(value, max_depth=MAX_VALUE_DEPTH)
        return value
    return dumps(value)


def as_frame(data: bytes | bytearray | memoryview | str) -> bytes:
    """Return what a transport has received as bytes of their own.

    Raises:
        TypeError: it is no text and no bytes.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode("utf-8", "surrogatepass")
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a frame is text or bytes, not {type(data).__name__}")


def decode(text: bytes | bytearray | memoryview | str) -> Message | list[Message]:
    """Decode a text: its message, or the messages of a batch. What is no message is `Invalid`, and never raises.

    Raises:
        TypeError: it is no text and no bytes.
    """
    text = as_frame(text)
    if not text.isascii():
        try:
            text.decode()  # raw members are skipped over, not read: nobody else looks at their UTF-8
        except UnicodeDecodeError:
            return _parse_error("not UTF-8", text)
    if _json.too_deep(text):
        return _parse_error("nested too deeply", text)
    try:
        wire = _decode_frame(text)
    except _json.DECODE_ERRORS as exc:
        return _decode_odd(text, exc)
    return _classify(wire)


def _decode_odd(text: bytes, exc: Exception) -> Message | list[Message]:
    """The slow way, for what is no plain frame: a batch, a wrong type, or no JSON at all."""
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
    """What is JSON and no message; with its id, where it has one."""
    try:
        id_ = bytes(_decode_id(text).id)
    except _json.DECODE_ERRORS:  # no object
        id_ = b""
    is_request = _salvage.salvage(text).is_request
    return Invalid(
        ErrorObject(INVALID_REQUEST, "Invalid Request"), id_ if id_ and _acceptable_id(id_) else None, is_request
    )


def _parse_error(why: str, text: bytes) -> Invalid:
    """What is no JSON; with what can be read of it all the same."""
    is_whole = len(text) <= _salvage.ENDS or _json.balanced(text)  # else its end may be that of a value in it
    found = _salvage.salvage(text, text[_salvage.ENDS :] if is_whole else b"")
    id_ = found.id if found.id is not None and len(found.id) <= MAX_ID else None
    return Invalid(ErrorObject(PARSE_ERROR, f"Parse error: {why}"), id_, found.is_request)


def _classify(wire: _Wire) -> Message:
    id_ = None if wire.id is msgspec.UNSET else bytes(wire.id)
    if id_ is not None and not _acceptable_id(id_):
        return Invalid(ErrorObject(INVALID_REQUEST, f"Invalid Request: id is no number or string of {MAX_ID} bytes"))
    if wire.method is not msgspec.UNSET:
        if len(wire.method) > MAX_METHOD:
            return Invalid(ErrorObject(INVALID_REQUEST, f"Invalid Request: method over {MAX_METHOD} characters"), id_)
        params = wire.params if wire.params is not msgspec.UNSET else wire.args
        if wire.nr is not msgspec.UNSET and bytes(wire.nr) == b"true":
            id_ = None
        return Request(wire.method, None if params is msgspec.UNSET else bytes(params), id_)
    if wire.error is not msgspec.UNSET and (error := bytes(wire.error)) != b"null":
        return Response(id_, error=_read_error(error))
    if wire.result is not msgspec.UNSET:
        return Response(id_, bytes(wire.result))
    if wire.error is not msgspec.UNSET:
        return Response(id_, b"null")
    if id_ is None:
        return Invalid(ErrorObject(INVALID_REQUEST, "Invalid Request"))
    return Response(id_)


def _acceptable_id(raw: RawJson) -> bool:
    return raw[0] in _ID_STARTS and len(raw) <= MAX_ID


_ID_STARTS = frozenset(b'"-0123456789n')  # a string, a number, or null


def _read_error(raw: RawJson) -> ErrorObject:
    """An error object as it came; one that is malformed is kept as its text, not lost."""
    try:
        error = _decode_error(raw)
        code = int(error.code)
    except _json.DECODE_ERRORS:
        return ErrorObject(APPLICATION_ERROR, raw.decode(errors="replace"))
    return ErrorObject(code, error.message, None if error.data is msgspec.UNSET else bytes(error.data))


def encode_request(method: str, params: object = None, id: int | None = None) -> bytes:
    """Encode a call, or a notification where `id` is None.

    Args:
        params: `bytes` are raw JSON; anything else is encoded; None sends no params.

    Raises:
        InvalidInput: the method is no text of 256 characters at most that UTF-8 can hold, the params have no JSON form,
            or the id is no whole number.
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


@lru_cache(maxsize=256)  # as many methods as a fleet of a few products has
def _method(method: str) -> RawJson:
    return dumps(method) if len(method) <= MAX_METHOD else _no_method()


def _no_method() -> NoReturn:
    raise InvalidInput(f"a method's name is text of at most {MAX_METHOD} characters")


def encode_result(id: RawJson, result: object = None) -> bytes:
    """Encode a successful response.

    Args:
        id: that of the request, as `Request.id` has it.
        result: `bytes` are raw JSON; anything else is encoded.

    Raises:
        InvalidInput: the id is none, or the result has no JSON form.
    """
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_checked_id(id), to_raw(result))


def encode_error(id: RawJson | None, error: ErrorObject) -> bytes:
    """Encode a failed response.

    Args:
        id: that of the request, as `Request.id` has it; None where it could not be read.

    Raises:
        InvalidInput: the id is none, or a member of the error is not what JSON-RPC has there.
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
    """Encoded messages as one batch (section 6)."""
    return b"[%b]" % b",".join(parts)
