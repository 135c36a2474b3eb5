"""From a received text to JSON-RPC messages: see `mdashcore.jsonrpc`."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET

from mdashcore import _json, _salvage
from mdashcore._messages import (
    APPLICATION_ERROR,
    ID_STARTS,
    INVALID_REQUEST,
    MAX_ID,
    MAX_METHOD,
    PARSE_ERROR,
    ErrorObject,
    Invalid,
    Message,
    RawJson,
    Request,
    Response,
    is_id,
)

__all__ = ["as_frame", "decode"]

MAX_BATCH: Final = 100  # one frame may not cause more work than this; real devices send no batches


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
    return Invalid(ErrorObject(INVALID_REQUEST, "Invalid Request"), id_ if id_ and is_id(id_) else None, is_request)


def _parse_error(why: str, text: bytes) -> Invalid:
    """Return the error for a text that is not JSON, with the id and the kind that can be recovered."""
    is_whole = len(text) <= _salvage.END_SIZE or _json.balanced(text)  # else the end may belong to a nested value
    found = _salvage.salvage(text, text[_salvage.END_SIZE :] if is_whole else b"")
    id_ = found.id if found.id is not None and len(found.id) <= MAX_ID else None
    return Invalid(ErrorObject(PARSE_ERROR, f"Parse error: {why}"), id_, found.is_request)


def _classify(wire: _FrameMembers) -> Message:
    id_ = None if wire.id is UNSET else bytes(wire.id)
    if id_ is not None and (id_[0] not in ID_STARTS or len(id_) > MAX_ID):
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


def _read_error(raw: RawJson) -> ErrorObject:
    """Return an error object as it was sent. The text of a malformed one becomes the message."""
    try:
        error = _decode_error(raw)
        code = int(error.code)
    except _json.DECODE_ERRORS:
        return ErrorObject(APPLICATION_ERROR, raw.decode(errors="replace"))
    return ErrorObject(code, error.message, None if error.data is UNSET else bytes(error.data))
