"""The fields that a term can read: the table of the grammar."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import attrs

from mdashcore.ota import UpdateState

__all__ = ["FIELDS", "FIRMWARE_FIELDS", "SUMMARY_FIELDS", "FieldType"]

FIRMWARE_FIELDS: Final = ("app", "arch", "fw_id", "fw_version")
"""Values of ``reported.ota`` with a short name."""


@attrs.frozen
class FieldType:
    """A field, or a family of fields, that a term can read."""

    form: str
    """How it is written, for people."""
    operators: str
    """The operators that it takes, separated by spaces; ``*`` stands for ``=*`` and ``!=*``."""
    holds: str
    """What it reads, for people, in Markdown."""
    is_age: bool = False
    """Whether ``<`` and its kin compare an age, such as ``5m``."""
    values: tuple[str, ...] = ()
    """The only values that it may have; empty for any. In a term, upper and lower case are the same."""


_ORDER: Final = "< <= > >="
_EQUAL: Final = "= != ~ !~ *"
_ANY: Final = f"= != ~ !~ {_ORDER} *"

FIELDS: Final = MappingProxyType(
    {
        "id": FieldType("id", _EQUAL, "the id; `id=a,b` is `id=a|b`"),
        "name": FieldType("name", _EQUAL, "the name"),
        "text": FieldType("text", "~ !~", "the id or the name"),
        "online": FieldType("online", f"= != {_ORDER}", "connected now; how long it has been", is_age=True),
        "offline": FieldType("offline", _ORDER, "how long it has not been connected", is_age=True),
        "last_seen": FieldType(
            "last_seen", f"{_ORDER} *", "how long ago the server heard of it; now, while it is connected", is_age=True
        ),
        "created_at": FieldType("created_at", f"{_ORDER} *", "how long ago it was registered", is_age=True),
        "update": FieldType(
            "update",
            f"= != {_ORDER} *",
            "the state of its newest update, such as `FAILED`; how long ago that changed",
            is_age=True,
            values=tuple(UpdateState),
        ),
        "presence_changes": FieldType(
            "presence_changes", f"= != {_ORDER}", "how often it has connected and disconnected in the last 24 hours"
        ),
        "damaged": FieldType(
            "damaged",
            "= != *",
            "the parts of its record that the server cannot read",
            values=("device", "presence", "shadow", "update"),
        ),
        "tag": FieldType("tag", _EQUAL, "the names of its tags"),
        "tag.": FieldType("tag.NAME", _ANY, "the value of a tag"),
        "app": FieldType("app", _ANY, "the name of the firmware that it reports"),
        "arch": FieldType("arch", _ANY, "the platform that it reports"),
        "fw_id": FieldType("fw_id", _ANY, "the build that it reports"),
        "fw_version": FieldType("fw_version", _ANY, "the version of the firmware that it reports"),
        "shadow": FieldType(
            "shadow.PLACE",
            _ANY,
            "any place in the shadow, in `reported`, `desired` or `delta`: `shadow.reported.stats.ram_free`",
        ),
    }
)
"""The fields by name. ``tag.`` and ``shadow`` are families, whose path says which one."""

SUMMARY_FIELDS: Final = frozenset(("update", "presence_changes", "damaged"))
"""The fields that the summary of an account has, and a device alone does not."""
