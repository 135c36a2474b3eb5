"""Members that several documents have, and how one is described."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

__all__ = ["AccountName", "DamagedParts", "DeviceId", "ErrorDetail", "ErrorDocument", "Label", "Password", "member"]

_NONE: Any = object()


def member(description: str, default: object = _NONE, **bounds: Any) -> Meta:
    """Return the description of a member, for people.

    Args:
        description: what it is, in Markdown.
        default: the value that a missing member stands for.
        bounds: as for `msgspec.Meta`.
    """
    more = None if default is _NONE else {"default": default}
    return Meta(description=description, extra_json_schema=more, **bounds)


DeviceId = Annotated[str, member("a device's id", pattern=r"^(?!\.{1,2}$)[A-Za-z0-9._~:@+=-]{1,128}$")]
"""The id of a device."""

AccountName = Annotated[str, member("a user's name", pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$")]
"""The name of a user."""

Label = Annotated[str, member("text for people", max_length=256)]
Password = Annotated[str, member("a password", min_length=1, max_length=1024)]
DamagedParts = Annotated[list[str], member("the parts that cannot be read")]


class ErrorDetail(TypedDict):
    """What went wrong."""

    code: Annotated[int, member("the HTTP status; with 422 the device's own code")]
    message: str
    data: NotRequired[Annotated[Any, member("with 422: what the device says beside its message")]]
    limit: NotRequired[Annotated[str, member("with 429: the name of the account's limit that is reached")]]


class ErrorDocument(TypedDict):
    """The body of every answer outside 2xx."""

    error: ErrorDetail
