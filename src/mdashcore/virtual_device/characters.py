"""Characters: the differences between devices in the field and a Mongoose OS device of today.

A character is a set of habits, and characters can be joined: `join("no-status", "slow-flash")` has the habits of both.
Each name in `CHARACTERS` stands for published device code, whose behaviour the habits repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from mdashcore._errors import InvalidInput

__all__ = ["CHARACTERS", "PLAIN_DEVICE", "Character", "NoMethod", "join"]


@attrs.frozen
class NoMethod:
    """The error with which a device refuses a method that it does not have."""

    code: int = 404
    words: str = "No handler for {method}"


@attrs.frozen(kw_only=True)
class Character:
    """The habits of a device. The defaults are those of a Mongoose OS device of today."""

    doc: str = ""
    """One line for `mdash device --help`."""
    lacks: frozenset[str] = frozenset()
    """Methods that the device does not have."""
    no_method: NoMethod = NoMethod()
    """The error for these and all other methods that the device does not have."""
    omits: frozenset[str] = frozenset()
    """Members that are missing in its `reported.ota`."""
    has_trial: bool = True
    """Whether a new build runs on trial until it is committed. Otherwise it is committed when it boots."""
    heartbeat: bool = False
    """Whether the device introduces itself with `Dash.Heartbeat`, before any report."""
    forgets_transfers: bool = True
    """Whether the device forgets a stalled transfer. Otherwise it refuses another one until `OTA.End` or a reboot.

    A device that does not forget accepts `OTA.End` after half an image too: its boot loader then starts the old build.
    """
    delays: Mapping[str, float] = MappingProxyType({})
    """Seconds from the request to the answer, by method."""
    tells_percent: bool = False
    """Whether the device sends the notification `State.Set {"ota": {"percent": N}}` for every `OTA.Write`."""
    chatter: float | None = None
    """Seconds between two reports, and between two log lines; `None` for the arguments of `VirtualDevice`."""
    broken_json: bool = False
    """Whether its errors are not JSON (`"message":}`), and each report is followed by a frame with `nan` for a
    number.
    """
    byte_per_frame: bool = False
    """Whether it sends each byte as a text frame of its own, and answers every frame without a method with an error."""

    @property
    def can_talk(self) -> bool:
        """Whether the server can understand the frames of this device."""
        return not self.byte_per_frame


PLAIN_DEVICE: Final = Character(doc="a Mongoose OS device of today")

_STATUS_FIELDS: Final = frozenset(
    {"status", "is_committed", "progress_percent", "message", "partition", "commit_timeout"}
)

CHARACTERS: Final[Mapping[str, Character]] = MappingProxyType(
    {
        "no-status": Character(
            doc="has no OTA.Status, and reports none of its values: Mongoose OS before 2018",
            lacks=frozenset({"OTA.Status"}),
            omits=_STATUS_FIELDS,
        ),
        "no-trial": Character(
            doc="has neither OTA.Status nor OTA.Commit, and commits a new build at its boot: the Arduino library",
            lacks=frozenset({"OTA.Status", "OTA.Commit", "OTA.Revert"}),
            no_method=NoMethod(-32601, "method not found"),
            omits=_STATUS_FIELDS,
            has_trial=False,
        ),
        "heartbeat-first": Character(
            doc="introduces itself with Dash.Heartbeat, and its reports do not contain the state of a transfer",
            heartbeat=True,
            omits=_STATUS_FIELDS,
        ),
        "holds-transfers": Character(
            doc="refuses OTA.Begin while it holds a transfer, until OTA.End or a reboot: the Arduino library",
            forgets_transfers=False,
        ),
        "slow-flash": Character(
            doc="is slow to erase, to write and to check",
            delays=MappingProxyType({"OTA.Begin": 20.0, "OTA.Write": 1.5, "OTA.End": 15.0}),
        ),
        "answers-garbage": Character(
            doc="sends errors that are not JSON, and `nan` as a number",
            broken_json=True,
        ),
        "byte-per-frame": Character(
            doc="sends each byte as a frame, and replies to answers with errors: the C simulator",
            byte_per_frame=True,
        ),
        "talkative": Character(
            doc="reports and logs ten times a second, and notifies of every chunk that it takes",
            tells_percent=True,
            chatter=0.1,
        ),
    }
)
"""Characters by name."""


def join(*names: str) -> Character:
    """Return the habits of all these characters together; `PLAIN_DEVICE` without names.

    Raises:
        InvalidInput: there is no character of that name.
    """
    joined = PLAIN_DEVICE
    for name in names:
        if name not in CHARACTERS:
            raise InvalidInput(f"no character {name!r}; there are {', '.join(CHARACTERS)}")
        joined = _join(joined, CHARACTERS[name])
    return joined


def _join(one: Character, other: Character) -> Character:
    """Join two characters. A habit that is not the default wins; of two such habits, the sum or the later one."""
    changed: dict[str, Any] = {}
    for field in attrs.fields(Character):
        mine, others = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, frozenset | Mapping):
            changed[field.name] = {**mine, **others} if isinstance(mine, Mapping) else mine | others
        elif others != field.default:
            changed[field.name] = others
    return attrs.evolve(one, **changed)
