"""The plan of a rollout: its phases, its limits, and when devices may begin."""

from __future__ import annotations

from enum import StrEnum
from math import ceil
from typing import Final

import attrs

from mdashcore._checked import Check, checked, instance, number
from mdashcore.ota import Options
from mdashcore.rollout._window import Window

MAX_PHASES = 16  # more steps than an operator watches

DAY = 86_400.0  # seconds

_PERCENT: Final = number(0, 100, above=False)


PHASES: Final = Check(
    f"1 to {MAX_PHASES} percents in ascending order, above 0, the last of them 100",
    lambda value: (
        isinstance(value, tuple)
        and 1 <= len(value) <= MAX_PHASES
        and all(type(each) in (int, float) and 0 < each <= 100 for each in value)
        and list(value) == sorted(set(value))
        and value[-1] == 100
    ),
)


class RolloutKind(StrEnum):
    """What a rollout is for people. It is stored and shown, so the names do not change."""

    ROLLOUT = "rollout"
    BULK = "bulk"  # an update of many devices at the same time: one phase, no stop at errors, no approval


@attrs.frozen(kw_only=True, field_transformer=checked)
class Plan:
    """The plan of a rollout. Percents are from 0 to 100."""

    phases: tuple[float, ...] = attrs.field(default=(1.0, 10.0, 100.0), validator=PHASES)
    """Percents of the devices, in ascending order, the last of them 100."""
    success_percent: float = attrs.field(default=95.0, validator=_PERCENT)
    """So many of a phase's devices, without the skipped ones, have to succeed before the next phase begins."""
    error_percent: float = attrs.field(default=10.0, validator=_PERCENT)
    """The rollout pauses if more than so many of a phase's ended devices have failed."""
    min_sample: int = 5
    """Devices of a phase, or all of a smaller one, that must have ended before errors are counted."""
    rate: int | None = 60
    """Devices that begin in a minute; `None` for as many as `max_active` allows."""
    max_active: int = 50
    """Devices with a running update at the same time: at most so many have an image that is not judged yet."""
    window: Window | None = attrs.field(default=None, validator=instance(Window).or_none())
    """When devices may begin; `None` for always. Running updates are not stopped at the end of the window."""
    offline_wait: float = attrs.field(default=7 * DAY, validator=number(above=False))
    """Seconds from the beginning of its phase in which a device may still come online. With 0 offline devices are
    skipped.
    """
    timeout: float = 30 * DAY
    """Seconds in which the whole rollout has to end."""
    approval: bool = False
    """Whether a user has to approve before the first phase begins."""
    options: Options = attrs.field(default=Options(), validator=instance(Options))
    """The options of each device's update."""

    def ends(self, members: int) -> tuple[int, ...]:
        """Return the index behind the last device of each phase, for so many devices."""
        return tuple(ceil(members * percent / 100) for percent in self.phases)

    def is_open(self, now: float) -> bool:
        """Return whether devices may begin at `now`, in Unix seconds."""
        return self.window is None or self.window.contains(now)


BULK_PLAN: Final = Plan(phases=(100.0,), success_percent=0.0, error_percent=100.0, rate=None)
"""The plan of a bulk update, but for what a request says."""
