"""Devices, their shadows, and calls to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict

from mdashcore.documents._members import DamagedParts, DeviceId, Label, member

__all__ = [
    "MAX_DEVICES_PAGE",
    "AcceptedShadow",
    "AdoptedDevice",
    "CallQuery",
    "DeviceChange",
    "DeviceDocument",
    "DevicePart",
    "DeviceToAdopt",
    "DeviceToken",
    "DevicesQuery",
    "FrameDocument",
    "NewDevice",
    "RegisteredDevice",
    "ShadowDocument",
    "ShadowState",
    "ShadowUpdate",
    "TagPatch",
    "TagValue",
    "TaggedShadow",
    "TaggedShadowUpdate",
]


MAX_DEVICES_PAGE = 1_000  # devices of a page: 2 MB with shadows of 2 KB

TagValue = Annotated[str, member("text of 1 to 64 characters", min_length=1, max_length=64)] | Literal[True]
"""The value of a tag."""

TagPatch = dict[str, TagValue | None] | None
"""A merge patch (RFC 7396) of tags."""


class ShadowState(TypedDict, total=False):
    """The sections of a shadow. Empty ones are left out."""

    desired: dict[str, Any] | None
    reported: dict[str, Any] | None
    delta: Annotated[dict[str, Any], member("the desired values that the device has not reported")]


class ShadowDocument(TypedDict):
    """A shadow."""

    state: ShadowState
    metadata: Annotated[dict[str, Any], member("the time of the last change of each value")]
    version: Annotated[int, member("the number of accepted updates", ge=0)]
    timestamp: Annotated[int, member("Unix seconds of the last update", ge=0)]


class TaggedShadow(ShadowDocument):
    """A shadow in the document of its device."""

    tags: Annotated[dict[str, TagValue], member("the device's `tags`, which have no version")]


class AcceptedShadow(TypedDict):
    """The accepted part of an update of a shadow."""

    state: ShadowState | None
    metadata: dict[str, Any] | None
    version: Annotated[int, member("the new version", ge=1)]
    timestamp: Annotated[int, member("Unix seconds", ge=0)]
    clientToken: NotRequired[str]


class ShadowUpdate(TypedDict, total=False):
    """An update of a shadow. Other members are ignored, so that a shadow can be sent back as it was read."""

    state: Required[
        Annotated[ShadowState | None, member('`{"desired"?, "reported"?}`, or `null`; any other member of it is 400')]
    ]
    version: Annotated[int, member("optional: the current version, as a lock", ge=0)]
    clientToken: Annotated[str, member("optional text of at most 64 bytes, given back in the answer", max_length=64)]


class TaggedShadowUpdate(TypedDict, total=False):
    """An update of a shadow, in a change of its device. It has `state`, `tags` or both."""

    state: Annotated[ShadowState | None, member("as in an update of the shadow")]
    version: Annotated[int, member("optional: the current version, as a lock for `state`", ge=0)]
    clientToken: Annotated[str, member("ignored", max_length=64)]
    tags: Annotated[TagPatch, member("as `tags` of the device")]


class DeviceDocument(TypedDict):
    """A device."""

    id: DeviceId
    name: Annotated[str, member("text for people; the id if none was given")]
    online: Annotated[bool, member("whether it is connected now")]
    since: Annotated[str | None, member("when it came online, or went offline; `null` if it never connected")]
    last_seen: Annotated[
        str | None,
        member(
            "when the server last received something from it; `null` if never. While it is connected to another server "
            "on the same store, this is up to half an hour old"
        ),
    ]
    created_at: Annotated[str | None, member("when it was registered")]
    tags: Annotated[dict[str, TagValue], member("names with text or `true`, by which people group devices")]
    shadow: Annotated[TaggedShadow, member("its shadow")]
    shared_with: Annotated[list[str], member("`[]`: devices are not shared between users")]
    delta_limit: Annotated[
        int | None,
        member(
            "bytes of the largest frame with a delta that it is sent: its own, else its platform's; `0`, `null`: any"
        ),
    ]
    damaged: NotRequired[DamagedParts]


class DevicePart(TypedDict, total=False):
    """The members of a device that `fields` names."""

    id: DeviceId
    name: str
    online: bool
    since: str | None
    last_seen: str | None
    created_at: str | None
    tags: dict[str, TagValue]
    shadow: TaggedShadow
    shared_with: list[str]
    delta_limit: int | None
    app: Annotated[str | None, member("`reported.ota.app` of the shadow, if it is text")]
    arch: Annotated[str | None, member("`reported.ota.arch`, if it is text")]
    fw_id: Annotated[str | None, member("`reported.ota.fw_id`, if it is text")]
    fw_version: Annotated[str | None, member("`reported.ota.fw_version`, if it is text")]
    is_committed: Annotated[bool | None, member("`reported.ota.is_committed`, if it is `true` or `false`")]
    damaged: Annotated[list[str], member("the parts that cannot be read; missing if all can")]


class RegisteredDevice(DeviceDocument):
    """A device that was just registered."""

    token: Annotated[str, member("its token, which is shown this once")]


class DeviceToken(TypedDict):
    """A device's new token."""

    id: str
    token: Annotated[str, member("the new token, which is shown this once")]


class NewDevice(TypedDict, total=False):
    """A device to register."""

    id: Annotated[DeviceId | None, member("optional; without it, the server generates one like `dev_q4zk2n7xw3ab`")]
    name: Annotated[Label | None, member("optional text of at most 256 characters")]
    tags: Annotated[TagPatch, member("optional: its tags, at most 32")]


class DeviceToAdopt(TypedDict, total=False):
    """A device that has a token of another service. It has `token` or `token_sha256`."""

    id: Required[DeviceId]
    name: Annotated[Label | None, member("optional text of at most 256 characters")]
    tags: Annotated[TagPatch, member("optional: its tags, at most 32")]
    token: Annotated[str, member("the token: 16 to 256 visible ASCII characters, of which 8 differ")]
    token_sha256: Annotated[str, member("in place of it: its SHA-256, in hexadecimal")]


class AdoptedDevice(TypedDict):
    """A device that was adopted."""

    id: DeviceId


class DeviceChange(TypedDict, total=False):
    """The members of a device that change."""

    name: Annotated[str, member("the new name", max_length=256)]
    tags: Annotated[TagPatch, member("merged into its tags: `null` removes one; `null` for the whole removes all")]
    shadow: Annotated[
        TaggedShadowUpdate, member('a shadow update: `{"state": …, "version"?, "clientToken"?, "tags"?}`')
    ]
    shared_with: Annotated[list[str] | None, member("`[]` only")]
    delta_limit: Annotated[
        int | None,
        member("bytes, from 1024 to 131072; `0`: none; `null`: that of the platform. It counts from the next delta on"),
    ]
    id: Annotated[str, member("ignored, so that a device that was read can be written back; another id is 400")]
    online: Annotated[Any, member("ignored")]
    since: Annotated[Any, member("ignored")]
    last_seen: Annotated[Any, member("ignored")]
    created_at: Annotated[Any, member("ignored")]
    damaged: Annotated[Any, member("ignored")]


class DevicesQuery(TypedDict, total=False):
    """The parameters of a list of devices."""

    filter: Annotated[list[str], member("a term that has to hold; up to 16", max_length=16)]
    limit: Annotated[int, member("how many devices at most: the answer is a page", ge=1, le=MAX_DEVICES_PAGE)]
    after: Annotated[
        str,
        member(
            "the cursor of a page, from its header `Link`: the devices behind that page. It has no other meaning, and "
            "stays valid whatever changes"
        ),
    ]
    sort: Annotated[
        str,
        member(
            "`id`, `name`, `online`, `last_seen` or `fw_version`, with `-` before it for the reverse",
            "id",
            pattern="^-?(id|name|online|last_seen|fw_version)$",
        ),
    ]
    count: Annotated[
        int,
        member(
            "1 counts all devices of the list: the header `X-Total-Count` of a page has their number", 0, ge=0, le=1
        ),
    ]
    fields: Annotated[
        str,
        member(
            "the members that the devices have, separated by commas: those of a device, and `app`, `arch`, `fw_id`, "
            "`fw_version`, `is_committed`, and up to 16 places in the shadow, such as `shadow.reported.t`: `\\.` is a "
            "dot that belongs to a key. Without it they have all of a device"
        ),
    ]
    format: Annotated[str, member("`csv`: a table with a line for each device", "json", pattern="^(csv|json)$")]


class MetricsQuery(TypedDict, total=False):
    """The parameters of the metrics of devices."""

    place: Annotated[
        list[str],
        member(
            "a place in the shadow whose number is wanted, such as `reported.sensors.t`; up to 16. "
            "`\\.` is a dot that belongs to a key",
            max_length=16,
        ),
    ]
    filter: Annotated[list[str], member("a term that has to hold; up to 16", max_length=16)]


class CallQuery(TypedDict, total=False):
    """The parameters of a call."""

    timeout: Annotated[float, member("seconds that the device has for the answer", 10, gt=0, le=120)]


class FrameDocument(TypedDict, total=False):
    """A JSON-RPC frame: a call or its answer, with or without `jsonrpc`."""

    jsonrpc: Annotated[Any, member('`"2.0"`; it is not checked, because firmware leaves it out')]
    id: Annotated[Any, member("a number or text; without it the frame is a notification, and has no answer")]
    method: Annotated[str, member("a method of the device")]
    params: Any
    result: Annotated[Any, member("in an answer: the result, as the device wrote it")]
    error: Annotated[Any, member('in an answer: `{"code", "message", "data"?}`')]
