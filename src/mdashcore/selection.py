"""Selections of devices: the terms of a filter applied to the facts about a device.

How a term compares, by the type of the value that is found:

* ``=`` compares text with the VALUE as it is written, and a number, a boolean or null with a bare VALUE that is one in
  JSON: ``5`` is ``5.0``, ``true`` is not ``1``. A missing value is null. Objects and arrays equal no VALUE.
* ``~`` holds for text that contains the VALUE, in upper or lower case.
* ``<`` and its kin compare a number with a bare VALUE that is a number, and text with the VALUE in natural order, in
  which digits count as numbers: ``1.9`` is before ``1.10``. They hold for no value of another type, nor for a missing
  one.
* An age is compared with the time since the moment that the field names. It holds for no device without one.

``!=`` and ``!`` hold exactly where the term without them does not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

import attrs

from mdashcore import filters, identity
from mdashcore._errors import InvalidInput
from mdashcore._natural_order import natural_key
from mdashcore._trees import JsonValue, values_equal
from mdashcore.filters import SUMMARY_FIELDS, Field, Term, Value
from mdashcore.filters._line import MAX_TERMS

__all__ = ["ANY_DEVICE", "DeviceFacts", "Facts", "Selection", "check_number", "check_work", "parse", "parse_members"]

MAX_IDS: Final = 20_000  # devices named one by one: as many as a rollout may have

MAX_KNOWN: Final = 1_000  # texts for which a comparison is remembered: more than a fleet has versions

MAX_KNOWN_TEXT: Final = 64  # characters of such a text: 150 KB together

MAX_SOUGHT: Final = 64  # values after `~` in a filter: in a text of 30 KB all of them are sought within 10 ms


class DeviceFacts(Protocol):
    """The facts about a device that a filter can read."""

    @property
    def id(self) -> str:
        """The device's id."""

    @property
    def name(self) -> str:
        """The device's name."""

    @property
    def online(self) -> bool:
        """Whether it is connected."""

    @property
    def state(self) -> Callable[[], Mapping[str, Any]]:
        """Returns the shadow's sections (`desired`, `reported`, `delta`). Called only if a term reads the shadow."""

    @property
    def tags(self) -> Mapping[str, Any]:
        """The values of its tags by name."""

    @property
    def since(self) -> float | None:
        """Unix seconds since when it has been online, or offline; `None` if it was never connected."""

    @property
    def last_seen(self) -> float | None:
        """Unix seconds when it was last heard of; unused while it is online."""

    @property
    def created_at(self) -> float | None:
        """Unix seconds."""

    @property
    def update_state(self) -> str | None:
        """The state of the newest update; `None` without one."""

    @property
    def update_changed(self) -> float | None:
        """Unix seconds of the last change of that state."""

    @property
    def presence_changes(self) -> int:
        """How often it has connected and disconnected in the last day."""

    @property
    def damaged(self) -> tuple[str, ...]:
        """The parts that cannot be read."""


@attrs.frozen
class Facts:
    """The facts about a device as plain values: see `DeviceFacts`."""

    id: str
    name: str
    online: bool
    state: Callable[[], Mapping[str, Any]] = dict
    tags: Mapping[str, Any] = attrs.field(factory=dict)
    since: float | None = None
    last_seen: float | None = None
    created_at: float | None = None
    update_state: str | None = None
    update_changed: float | None = None
    presence_changes: int = 0
    damaged: tuple[str, ...] = ()


_Test: TypeAlias = Callable[[DeviceFacts, float], bool]


@attrs.frozen
class Selection:
    """A set of devices: those that are named, if any are, and match all terms. The default is every device."""

    devices: frozenset[str] | None = None
    """The ids of the named devices; `None` for devices with any id."""
    terms: tuple[Term, ...] = ()
    _tests: tuple[_Test, ...] = attrs.field(init=False, eq=False, repr=False)

    @_tests.default
    def _compiled(self) -> tuple[_Test, ...]:
        return tuple(map(_compile, self.terms))

    def matches(self, device: DeviceFacts, now: float) -> bool:
        """Return whether the device belongs to the selection.

        Args:
            now: Unix seconds, for ages. A moment after `now`, which a clock that was set back leaves, has the age 0.
        """
        if self.devices is not None and device.id not in self.devices:
            return False
        for test in self._tests:  # noqa: SIM110 - a generator takes as long as a test
            if not test(device, now):
                return False
        return True

    @property
    def reads_shadows(self) -> bool:
        """Whether a term reads the shadow."""
        return any(term.field.name == "shadow" for term in self.terms)

    @property
    def reads_summary(self) -> bool:
        """Whether a term reads what only the summary of the account has."""
        return not SUMMARY_FIELDS.isdisjoint(term.field.name for term in self.terms)

    @property
    def counts_changes(self) -> bool:
        """Whether a term reads the changes of presence, which are counted for it."""
        return any(term.field.name == "presence_changes" for term in self.terms)


def parse(terms: object = (), devices: object = None) -> Selection:
    """Return the selection of terms and ids that a user gave. Raises `InvalidInput` for malformed ones.

    Args:
        terms: a list of texts, as `filters.parse_term` reads them.
        devices: a list of 1 to 20 000 ids; `None` for devices with any id.
    """
    if not isinstance(terms, Sequence) or isinstance(terms, str | bytes):
        raise InvalidInput("a filter is a list of terms")
    check_number(terms)
    parsed = tuple(map(filters.parse_term, terms))
    check_work(parsed)
    return Selection(None if devices is None else _ids(devices), parsed)


def parse_members(request: Mapping[str, Any], what: str) -> Selection:
    """Return the selection that the members `filter`, `devices` and `all` of a request are.

    Every device is selected only by `all`, so that a forgotten filter selects none.

    Args:
        what: the request in words, for the error.

    Raises:
        InvalidInput: no device is selected, `all` stands beside a filter or ids, or a member is malformed.
    """
    everything = request.get("all", False)
    if not isinstance(everything, bool):
        raise InvalidInput("all is true or false")
    terms, devices = request.get("filter", ()), request.get("devices")
    is_limited = devices is not None or terms not in ((), [])
    if everything and is_limited:
        raise InvalidInput("all selects every device: leave it out, or devices and filter")
    if not everything and not is_limited:
        raise InvalidInput(f'{what} needs devices or a filter with terms; for every device say "all": true')
    return parse(terms, devices)


def check_number(terms: Sized) -> None:
    """Raise `InvalidInput` for more terms than a filter may have."""
    if len(terms) > MAX_TERMS:
        raise InvalidInput(f"a filter has at most {MAX_TERMS} terms, with those of saved filters")


def check_work(terms: Iterable[Term]) -> None:
    """Raise `InvalidInput` for terms that take too long to be evaluated for one device."""
    if sum(len(term.values) for term in terms if term.operator == "~") > MAX_SOUGHT:
        raise InvalidInput(f"a filter has at most {MAX_SOUGHT} values after ~ and !~, all terms together")


def _ids(devices: object) -> frozenset[str]:
    if not isinstance(devices, Sequence) or isinstance(devices, str | bytes):
        raise InvalidInput("devices is a list of ids")
    if not devices or len(devices) > MAX_IDS:
        raise InvalidInput(f"devices has 1 to {MAX_IDS} ids")
    return frozenset(map(identity.check_device_id, devices))


# Terms as functions


def _compile(term: Term) -> _Test:
    """Return the function that tells whether a term holds. What can be computed once is computed here."""
    test = _ages(term) if term.is_age else _values(term)
    return (lambda facts, now: not test(facts, now)) if term.negated else test


def _ages(term: Term) -> _Test:
    moment, compare, age = _MOMENTS[term.field.name], _ORDERS[term.operator], term.values[0].seconds

    def test(facts: DeviceFacts, now: float) -> bool:
        then = moment(facts, now)
        return then is not None and compare(max(0.0, now - then), age)

    return test


def _values(term: Term) -> _Test:
    found_in = _reader(term.field)
    if term.operator == "*":
        return lambda facts, now: any(each is not None for each in found_in(facts, now))
    fits = _FITS.get(term.operator, _fits_order)(term.values, term.operator)
    return lambda facts, now: any(map(fits, found_in(facts, now)))


_MOMENTS: Final[Mapping[str, Callable[[DeviceFacts, float], float | None]]] = MappingProxyType(
    {
        "online": lambda facts, now: facts.since if facts.online else None,
        "offline": lambda facts, now: None if facts.online else facts.since,
        "last_seen": lambda facts, now: now if facts.online else facts.last_seen,
        "created_at": lambda facts, now: facts.created_at,
        "update": lambda facts, now: facts.update_changed,
    }
)

_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)


def _reader(field: Field) -> Callable[[DeviceFacts, float], Sequence[object]]:
    """Return the function that gives the values of a field: several for the names of tags, else one."""
    if field.name == "shadow":
        return lambda facts, now: (_dig(facts.state(), field.path),)
    if field.name == "tag.":
        return lambda facts, now: (facts.tags.get(field.path[0]),)
    if field.name == "tag":
        return lambda facts, now: tuple(facts.tags)
    if field.name == "text":
        return lambda facts, now: (facts.id, facts.name)
    if field.name in ("last_seen", "created_at"):
        moment = _MOMENTS[field.name]
        return lambda facts, now: (moment(facts, now),)
    if field.name == "damaged":
        return lambda facts, now: facts.damaged
    get = operator.attrgetter("update_state" if field.name == "update" else field.name)
    return lambda facts, now: (get(facts),)


def _dig(state: Mapping[str, Any], path: tuple[str, ...]) -> object:
    found: Any = state
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _fits_equal(values: Sequence[Value], _: str) -> Callable[[Any], bool]:
    texts = frozenset(value.text for value in values)
    scalars: list[Any] = [scalar for value in values for scalar in value.scalars]

    def fits(found: JsonValue) -> bool:
        if isinstance(found, str):
            return found in texts
        return any(values_equal(scalar, found) for scalar in scalars)

    return fits


def _fits_part(values: Sequence[Value], _: str) -> Callable[[Any], bool]:
    wanted = [value.text.casefold() for value in values]

    def fits(found: object) -> bool:
        if not isinstance(found, str):
            return False
        folded = found.casefold()
        return any(part in folded for part in wanted)

    return fits


def _fits_order(values: Sequence[Value], sign: str) -> Callable[[Any], bool]:
    (value,) = values  # the grammar allows one
    compare, wanted = _ORDERS[sign], natural_key(value.text)
    numbers: list[Any] = [scalar for scalar in value.scalars if type(scalar) in (int, float)]
    known: dict[str, bool] = {}  # most devices of a fleet have one of a few versions

    def fits(found: object) -> bool:
        if isinstance(found, str):
            holds = known.get(found)
            if holds is None:
                holds = compare(natural_key(found, len(wanted) + 1), wanted)  # a run more than `wanted` has decides
                if len(known) < MAX_KNOWN and len(found) <= MAX_KNOWN_TEXT:
                    known[found] = holds
            return holds
        return type(found) in (int, float) and any(compare(found, number) for number in numbers)

    return fits


_FITS: Final = MappingProxyType({"=": _fits_equal, "~": _fits_part})


ANY_DEVICE: Final = Selection()
"""The selection of every device."""
