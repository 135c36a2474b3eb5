"""Selections of devices: a filter is a list of terms, all of which have to hold.

A term is text of one of these forms::

    online          offline         connected now, or not
    FIELD=VALUE     FIELD!=VALUE    is, or is not, that value
    FIELD~TEXT                      contains that text, upper or lower case

A FIELD is ``id``, ``name``, ``online``, a value that the device reports of its firmware (``app``, ``arch``, ``fw_id``,
``fw_version``), or any place in the shadow: ``shadow.reported.stats.ram_free``, ``shadow.desired.on``. A dot that
belongs to a key is written ``\\.``.

``id=a,b,c`` matches any of these ids. The VALUE for a place in the shadow is compared as JSON if it is a JSON scalar
(``5`` is ``5.0``, ``true`` is not ``1``), and also as text, so that ``fw_version=1.10`` and
``shadow.reported.on=true`` both match. A missing place is ``null``, so ``!=`` holds for it unless the VALUE is
``null``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from mdashcore import _json, identity
from mdashcore._errors import InvalidInput
from mdashcore._trees import values_equal

__all__ = ["ANY_DEVICE", "Facts", "Selection", "Term", "parse", "parse_place", "parse_term"]

MAX_TERMS: Final = 16  # of a filter: each is evaluated for each device

MAX_TERM: Final = 512  # characters: a path of ten keys and a value; longer lists of ids go into `devices`

MAX_IDS: Final = 20_000  # devices named one by one: as many as a rollout may have

_TERM = re.compile(r"([^=!~]+)(=|!=|~)(.*)", re.DOTALL)

_FIRMWARE: Final = ("app", "arch", "fw_id", "fw_version")

_SYNTAX: Final = "a filter's term is online, offline, FIELD=VALUE, FIELD!=VALUE or FIELD~TEXT"


@attrs.frozen
class Facts:
    """The facts about a device that a filter can read."""

    id: str
    name: str
    online: bool
    state: Callable[[], Mapping[str, Any]] = dict
    """Returns the shadow's sections (`desired`, `reported`, `delta`). Called only if a term reads the shadow."""


@attrs.frozen
class Term:
    """One condition of a filter."""

    text: str
    """The term as the user wrote it."""
    field: str
    """``id``, ``name``, ``online`` or ``shadow``."""
    operator: str
    """``=``, ``!=`` or ``~``."""
    value: str
    path: tuple[str, ...] = ()
    """The keys that lead to the value in the shadow; empty for other fields."""

    def holds(self, device: Facts) -> bool:
        """Return whether the condition holds for a device."""
        if self.operator == "~":
            found = self._value(device)
            return isinstance(found, str) and self.value.casefold() in found.casefold()
        return self._equal(device) is (self.operator == "=")

    def _value(self, device: Facts) -> object:
        if self.field != "shadow":
            return getattr(device, self.field)
        found: Any = device.state()
        for key in self.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def _equal(self, device: Facts) -> bool:
        found = self._value(device)
        if self.field == "id":
            return found in self.value.split(",")
        if found == self.value:
            return True
        return self.field != "name" and any(values_equal(value, found) for value in _scalar(self.value))  # type: ignore[arg-type]


@attrs.frozen
class Selection:
    """A set of devices: those that are named, if any are, and match all terms. The default is every device."""

    devices: frozenset[str] | None = None
    """The ids of the named devices; `None` for devices with any id."""
    terms: tuple[Term, ...] = ()

    def matches(self, device: Facts) -> bool:
        """Return whether the device belongs to the selection."""
        if self.devices is not None and device.id not in self.devices:
            return False
        return all(term.holds(device) for term in self.terms)

    @property
    def reads_shadows(self) -> bool:
        """Whether a term reads the shadow."""
        return any(term.field == "shadow" for term in self.terms)


ANY_DEVICE: Final = Selection()
"""The selection of every device."""


def parse(terms: object = (), devices: object = None) -> Selection:
    """Return the selection of terms and ids that a user gave. Raises `InvalidInput` for malformed ones.

    Args:
        terms: a list of texts, as `parse_term` reads them.
        devices: a list of 1 to 20 000 ids; `None` for devices with any id.
    """
    if not isinstance(terms, Sequence) or isinstance(terms, str | bytes):
        raise InvalidInput("a filter is a list of terms")
    if len(terms) > MAX_TERMS:
        raise InvalidInput(f"a filter has at most {MAX_TERMS} terms")
    return Selection(None if devices is None else _ids(devices), tuple(map(parse_term, terms)))


def parse_term(text: object) -> Term:
    """Return the condition that a text says. Raises `InvalidInput`, whose text explains the syntax.

    >>> parse_term("shadow.reported.on!=true").path
    ('reported', 'on')
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f"{_SYNTAX}; this one is empty or no text")
    if len(text) > MAX_TERM:
        raise InvalidInput(f"a filter's term has at most {MAX_TERM} characters")
    text = text.strip()
    if text in ("online", "offline"):
        return Term(text, "online", "=", "true" if text == "online" else "false")
    match = _TERM.fullmatch(text)
    if match is None:
        raise InvalidInput(f"{_SYNTAX}; not {text!r}")
    field, operator, value = match[1].strip(), match[2], match[3].strip()
    if field == "online":
        if operator == "~" or value not in ("true", "false"):
            raise InvalidInput("online is true or false")
        return Term(text, field, operator, value)
    if field in ("id", "name"):
        return Term(text, field, operator, value)
    if field in _FIRMWARE:
        return Term(text, "shadow", operator, value, ("reported", "ota", field))
    head, *path = _split(field)
    if head != "shadow" or not path or "" in path:
        known = ", ".join(("id", "name", "online", *_FIRMWARE))
        raise InvalidInput(f"unknown field {field!r}; known are {known} and shadow.PATH")
    return Term(text, "shadow", operator, value, _checked_path(path))


def parse_place(text: str) -> tuple[str, ...]:
    r"""Return the keys that lead to a place in the shadow, the section first. Raises `InvalidInput`.

    >>> parse_place(r"reported.sensors.1\.2")
    ('reported', 'sensors', '1.2')
    """
    if len(text) > MAX_TERM:
        raise InvalidInput(f"a place has at most {MAX_TERM} characters")
    path = _split(text)
    if len(path) < 2 or "" in path:
        raise InvalidInput(f"a place is written as in reported.sensors.t, not {text!r}")
    return _checked_path(path)


def _checked_path(path: Sequence[str]) -> tuple[str, ...]:
    if path[0] not in ("desired", "reported", "delta"):
        raise InvalidInput(f"a shadow has desired, reported and delta, not {path[0]!r}")
    return tuple(path)


def _split(field: str) -> list[str]:
    return [re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:^|\.)((?:\\.|[^.\\])*)", field)]


def _ids(devices: object) -> frozenset[str]:
    if not isinstance(devices, Sequence) or isinstance(devices, str | bytes):
        raise InvalidInput("devices is a list of ids")
    if not devices or len(devices) > MAX_IDS:
        raise InvalidInput(f"devices has 1 to {MAX_IDS} ids")
    return frozenset(map(identity.check_device_id, devices))


def _scalar(text: str) -> list[object]:
    """Return the value of a text that is a JSON scalar, in a list; an empty list for other text."""
    try:
        value = _json.decode(text)
    except InvalidInput:
        return []
    return [] if isinstance(value, dict | list) else [value]
