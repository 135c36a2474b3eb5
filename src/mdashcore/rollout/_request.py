"""The request for a rollout: a JSON object, checked member by member."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from mdashcore import identity, selection
from mdashcore._checked import check_members
from mdashcore._errors import InvalidInput
from mdashcore.ota import Options, UpdateImage
from mdashcore.rollout._plan import BULK_PLAN, DAY, PHASES, Plan, RolloutKind
from mdashcore.rollout._values import MAX_MEMBERS
from mdashcore.rollout._window import DAY_MINUTES, Window
from mdashcore.selection import Selection

MAX_RATE = 6000  # devices a minute: 100 a second is the number that one node begins without delaying others
MAX_ACTIVE = 1000  # devices at the same time: each holds a block of the image in memory, together 64 MB
MAX_ROLLOUT_TIMEOUT = 90 * DAY  # seconds: a fleet that is not done by then is not looked after
MIN_ROLLOUT_TIMEOUT = 60.0  # seconds: one device takes as long

MAX_IMAGE_TEXT = 500  # characters of a text of a manifest; real ones have under 100

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TIME = re.compile(r"([01]\d|2[0-4]):([0-5]\d)")


@attrs.frozen
class RolloutRequest:
    """A checked request for a rollout."""

    name: str
    selection: Selection
    plan: Plan
    kind: RolloutKind = RolloutKind.ROLLOUT
    expect: int | None = None
    """The number of devices that a review has counted."""


def parse_request(value: object) -> RolloutRequest:
    """Return the request that a JSON object describes.

    ::

        {"kind": "rollout", "name": "1.4 to the halls",
         "filter": ["arch=esp32", "fw_version!=1.4"], "devices": null, "all": false,
         "phases": [1, 10, 100], "success_percent": 95, "error_percent": 10, "min_sample": 5,
         "rate": 60, "max_active": 50,
         "window": {"start": "22:00", "end": "04:00", "days": ["sat", "sun"]},
         "offline_wait": 604800, "timeout": 2592000, "approval": false,
         "auto_commit": true, "commit_after": 30, "commit_timeout": 300, "force": false, "other_app": false,
         "expect": null}

    Raises:
        InvalidInput: a member is unknown, or has an invalid value. The text names it.
    """
    if not isinstance(value, dict):
        raise InvalidInput("a rollout is a JSON object")
    check_members(value, _MEMBERS)
    chosen = selection.parse_members(value, "a rollout")
    kind = _kind(value)
    default = BULK_PLAN if kind is RolloutKind.BULK else Plan()
    plan = Plan(
        phases=_phases(value.get("phases", default.phases)),
        success_percent=_number(value, "success_percent", default.success_percent, 0, 100),
        error_percent=_number(value, "error_percent", default.error_percent, 0, 100),
        min_sample=_integer(value, "min_sample", default.min_sample, 1, 1000),
        rate=_rate(value, default.rate),
        max_active=_integer(value, "max_active", default.max_active, 1, MAX_ACTIVE),
        window=_window(value.get("window")),
        offline_wait=_number(value, "offline_wait", default.offline_wait, 0, MAX_ROLLOUT_TIMEOUT),
        timeout=_number(value, "timeout", default.timeout, MIN_ROLLOUT_TIMEOUT, MAX_ROLLOUT_TIMEOUT),
        approval=_flag(value, "approval", default.approval),
        options=_options(value),
    )
    expect = None if value.get("expect") is None else _integer(value, "expect", 1, 1, MAX_MEMBERS)
    return RolloutRequest(identity.check_label(value.get("name", "")), chosen, plan, kind, expect)


def _rate(value: Mapping[str, Any], default: int | None) -> int | None:
    return None if value.get("rate", default) is None else _integer(value, "rate", default or 1, 1, MAX_RATE)


def _kind(value: Mapping[str, Any]) -> RolloutKind:
    kind = value.get("kind", RolloutKind.ROLLOUT)
    if not isinstance(kind, str) or kind not in set(RolloutKind):
        raise InvalidInput(f"kind is one of {', '.join(RolloutKind)}")
    if kind == RolloutKind.BULK and (extra := [name for name in _PHASED if name in value]):
        raise InvalidInput(f"a bulk update has one phase, no stop at errors and no approval: leave out {extra[0]}")
    return RolloutKind(kind)


_PHASED = ("phases", "success_percent", "error_percent", "min_sample", "approval")
"""The members that a bulk update cannot have."""


def parse_image(value: object) -> UpdateImage:
    """Return the image that the member `image` of a preview describes, without its bytes. Raises `InvalidInput`."""
    if not isinstance(value, dict):
        raise InvalidInput("image is an object: what the manifest says, or bare")
    check_members(value, (*_IMAGE_MEMBERS, "bare"))
    for name in _IMAGE_MEMBERS:
        if not isinstance(value.get(name, ""), str | None) or len(value.get(name) or "") > MAX_IMAGE_TEXT:
            raise InvalidInput(f"{name} of an image is a text of up to {MAX_IMAGE_TEXT} characters, or null")
    said = {name: value.get(name) for name in _IMAGE_MEMBERS}
    return UpdateImage(name="", size=1, sha256="", bare=_flag(value, "bare", False), **said)


_IMAGE_MEMBERS = ("platform", "app", "version", "build_id")

_MEMBERS = (
    *(
        "kind",
        "name",
        "devices",
        "filter",
        "all",
        "phases",
        "success_percent",
        "error_percent",
        "min_sample",
        "rate",
        "max_active",
    ),
    *("window", "offline_wait", "timeout", "approval", "auto_commit", "commit_after", "commit_timeout"),
    *("force", "other_app", "expect"),
)


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan in the form of a request."""
    options = plan.options
    window = None if plan.window is None else _describe_window(plan.window)
    fields = attrs.asdict(plan, filter=attrs.filters.exclude("window", "options"), recurse=False)
    asked = {name: getattr(options, name) for name in _OPTIONS}
    return {**fields, "window": window, **asked}


_OPTIONS = ("auto_commit", "commit_after", "commit_timeout", "force", "other_app")
"""The options of an update that a request for a rollout can set."""


def _options(value: Mapping[str, Any]) -> Options:
    auto = _flag(value, "auto_commit", True)
    after = _integer(value, "commit_after", Options().commit_after, 1, int(DAY))
    timeout = _integer(value, "commit_timeout", Options().commit_timeout, 0, int(DAY))
    if auto and 0 < timeout <= after:
        raise InvalidInput(
            f"commit_after is {after} s, and has to be below commit_timeout, which is {timeout} s: a device that is "
            "not committed by then goes back to its old firmware"
        )
    flags = {name: _flag(value, name, False) for name in ("force", "other_app")}
    return Options(auto_commit=auto, commit_after=after, commit_timeout=timeout, **flags)


def _phases(value: object) -> tuple[float, ...]:
    phases = tuple(value) if isinstance(value, list) else value
    if not isinstance(phases, tuple) or not PHASES.fits(phases):
        raise InvalidInput(f"phases are {PHASES.wanted}")
    return tuple(map(float, phases))


def _window(value: object) -> Window | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not {"start", "end"} <= value.keys() <= {"start", "end", "days"}:
        raise InvalidInput('a window is {"start": "HH:MM", "end": "HH:MM", "days"?: ["mon", …]}, in UTC')
    start, end = _minute(value["start"]), _minute(value["end"])
    if start == DAY_MINUTES or end == start:
        raise InvalidInput("a window starts before 24:00 and does not end when it starts; all day is 00:00 to 24:00")
    days = value.get("days", list(_DAYS))
    if not isinstance(days, list) or not days or any(day not in _DAYS for day in days):
        raise InvalidInput(f"days of a window are some of {', '.join(_DAYS)}")
    return Window(start, end or DAY_MINUTES, tuple(sorted({_DAYS.index(day) for day in days})))


def _describe_window(window: Window) -> dict[str, Any]:
    start, end = (f"{minute // 60:02}:{minute % 60:02}" for minute in (window.start, window.end))
    return {"start": start, "end": end, "days": [_DAYS[day] for day in window.days]}


def _minute(value: object) -> int:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    minute = DAY_MINUTES + 1 if match is None else int(match[1]) * 60 + int(match[2])
    if minute > DAY_MINUTES:
        raise InvalidInput("a window's start and end are times of the day in UTC, 00:00 to 24:00")
    return minute


def _number(value: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    number = value.get(name, default)
    if type(number) not in (int, float) or not low <= number <= high:
        raise InvalidInput(f"{name} is a number from {low:g} to {high:g}")
    return float(number)


def _integer(value: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    number = value.get(name, default)
    if type(number) is not int or not low <= number <= high:
        raise InvalidInput(f"{name} is an integer from {low} to {high}")
    return number


def _flag(value: Mapping[str, Any], name: str, default: bool) -> bool:
    flag = value.get(name, default)
    if not isinstance(flag, bool):
        raise InvalidInput(f"{name} is true or false")
    return flag
