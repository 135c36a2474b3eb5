"""The preview of a rollout: which devices it would reach, and which of them its image fits."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import attrs

from mdashcore import ota
from mdashcore._errors import InvalidInput
from mdashcore.hub.device_list import ListedDevice
from mdashcore.ota import Build, Fit
from mdashcore.rollout import MAX_MEMBERS, Plan

__all__ = ["DeviceGroup", "RolloutPreview", "build_of"]

MAX_COUNTED_GROUPS: Final = 1000  # groups that are counted: 2 MB, if each has names of the greatest length

MAX_SHOWN_GROUPS: Final = 100  # groups in a preview: more than a person reads

_Key: TypeAlias = tuple[str | None, str | None, str | None, Fit]
"""Platform, application, version, and how the image fits."""


@attrs.frozen
class DeviceGroup:
    """Devices that report the same. What they do not say is `None`."""

    platform: str | None
    app: str | None
    version: str | None
    fit: Fit
    devices: int


class RolloutPreview:
    """Counts what a rollout would be for each device that is added.

    Args:
        image: the description of the image; `None` for a preview that does not judge whether it fits.

    Attributes:
        devices: the number of selected devices.
        online: how many of them are connected.
        fits: how many devices have each fit.
        unknown: how many fit and do not say their platform, or do not say their application.
    """

    def __init__(self, plan: Plan, image: ota.UpdateImage | None) -> None:
        self._plan = plan
        self._image = image
        self.devices: int = 0
        self.online: int = 0
        self.unknown: int = 0
        self.fits: dict[Fit, int] = dict.fromkeys(Fit, 0)
        self._groups: dict[_Key, int] = {}

    def add(self, listed: ListedDevice) -> None:
        """Count a device. Raises `InvalidInput` for more devices than a rollout may have."""
        self.devices += 1
        if self.devices > MAX_MEMBERS:
            raise InvalidInput(f"the selection has more than {MAX_MEMBERS} devices, the most that a rollout has")
        self.online += listed.presence.online
        build = build_of(listed)
        fit = Fit.FITS if self._image is None else ota.fit(self._image, build, self._plan.options)
        self.fits[fit] += 1
        self.unknown += fit is Fit.FITS and None in (build.platform, build.app)
        key = build.platform, build.app, build.version, fit
        if key in self._groups or len(self._groups) < MAX_COUNTED_GROUPS:
            self._groups[key] = self._groups.get(key, 0) + 1

    @property
    def groups(self) -> list[DeviceGroup]:
        """The largest groups, the largest first. The other devices are in no group."""
        ranked = sorted(self._groups.items(), key=lambda each: -each[1])[:MAX_SHOWN_GROUPS]
        return [DeviceGroup(*key, devices=number) for key, number in ranked]

    @property
    def phases(self) -> list[int]:
        """The number of devices of each phase."""
        ends = self._plan.ends(self.devices)
        return [end - start for start, end in zip((0, *ends), ends, strict=False)]

    def missing(self, *, bare: bool) -> list[str]:
        """Return the options without which the rollout is refused, by the names that the REST API has for them.

        Args:
            bare: whether the request says that the image is a bare one.
        """
        wanted = {
            "bare": self._image is not None and self._image.bare and not bare,
            "other_app": self.fits[Fit.OTHER_APP] > 0,
        }
        return [name for name, is_missing in wanted.items() if is_missing]


def build_of(listed: ListedDevice) -> Build:
    """Return the build that a device reports. Every field is `None` if it reports none."""
    reported: Any = (listed.shadow.reported or {}).get("ota")
    return Build.from_wire(reported) if isinstance(reported, dict) else Build()
