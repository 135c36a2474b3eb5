"""An update of a shadow as it is asked for: the state, the version and the token in its document, checked."""

from __future__ import annotations

import re
from typing import Final

from mdashcore._errors import InvalidShadowUpdate, TooLarge
from mdashcore._json import encode
from mdashcore._sections import check_state
from mdashcore._trees import JsonObject, JsonValue

__all__ = ["client_token_of", "encoded", "least_size", "state_of", "too_large", "version_of"]

MAX_CLIENT_TOKEN_BYTES = 64  # AWS IoT's limit; in UTF-8

_SECTIONS: Final = frozenset({"desired", "reported"})

_WRAPPING: Final = len('{"desired":{},"reported":{}}')  # bytes around the members; an empty section has size 0

_NULL_MEMBER: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+":null,?')
_EMPTY_MEMBER: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+":\{\},?')


def state_of(document: JsonObject, room: int, max_bytes: int, max_depth: int) -> tuple[JsonObject | None, bytes]:
    """Return the state of an update, and the same as JSON. Its patches are still to be checked.

    Args:
        room: bytes that the shadow may have: its present size, if that is above the limit.
        max_bytes: the limit, which the error names.
        max_depth: levels of objects.

    Raises:
        InvalidShadowUpdate: the update is malformed.
        TooLarge: it cannot fit, which is seen before anything is made of it.
    """
    if "state" not in document:
        raise InvalidShadowUpdate("Missing required node: state")
    state = document["state"]
    if state is None:
        return None, b"null"
    text = encoded(state)
    if text is not None and least_size(text) > room:
        raise too_large(max_bytes)
    if text is None or not isinstance(state, dict) or not state.keys() <= _SECTIONS:
        check_state(state, text, max_depth, nulls=True)
        raise InvalidShadowUpdate("State node must be an object")
    return state, text


def too_large(max_bytes: int) -> TooLarge:
    """Return the error for a shadow that would grow beyond its limit."""
    return TooLarge(f"The payload exceeds the maximum size allowed: {max_bytes} bytes")


def least_size(text: bytes) -> int:
    """Return the bytes that a shadow has at least after this state was merged into it.

    All that is no null stays, with the objects that hold it. To look at the text takes a fraction of the merge's time.
    """
    if b":null" in text:
        text = _NULL_MEMBER.sub(b"", text)
        while len(left := _EMPTY_MEMBER.sub(b"", text.replace(b",}", b"}"))) < len(text):
            text = left
    return len(text) - _WRAPPING


def version_of(document: JsonObject) -> int | None:
    """Return the `version` of an update, or `None` if it has none. Raises `InvalidShadowUpdate`."""
    if "version" not in document:
        return None
    version = document["version"]  # not null: a caller that asks for a version check must get one
    if type(version) is not int or version < 0:
        raise InvalidShadowUpdate("Invalid version")
    return version


def client_token_of(document: JsonObject) -> str | None:
    """Return the `clientToken` of an update, or `None` if it has none. Raises `InvalidShadowUpdate`."""
    if "clientToken" not in document:
        return None
    token = document["clientToken"]
    if type(token) is not str or not _is_short_text(token):
        raise InvalidShadowUpdate("Invalid clientToken")
    return token


def _is_short_text(token: str) -> bool:
    try:
        return len(token.encode()) <= MAX_CLIENT_TOKEN_BYTES
    except UnicodeEncodeError:  # half a surrogate pair: JSON can escape it, UTF-8 cannot hold it
        return False


def encoded(state: JsonValue) -> bytes | None:
    """Return the state as JSON; `None` if it cannot be written as that."""
    try:
        return encode(state)
    except (ValueError, TypeError, RecursionError):
        return None
