"""The boot loader: two slots, and the rule that an update must be committed to stay.

====================  ===================  ==========================================================
at power-on           commit_timeout       effect
====================  ===================  ==========================================================
committed             –                    the active slot boots
first boot            0                    the active slot boots and is committed
first boot            > 0                  the active slot boots, uncommitted: the commit timer runs
uncommitted, again    –                    the other slot boots, committed: rolled back
====================  ===================  ==========================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import msgspec

from mdashcore._errors import InvalidInput
from mdashcore.virtual_device._flash import read_json, write_json

__all__ = ["Boot", "BootLoader", "FirmwareBuild"]


@attrs.frozen
class FirmwareBuild:
    """A firmware build, in the words of its manifest."""

    app: str = "virtual-device"
    """The `name` in the manifest."""

    version: str = "1.0"
    build_id: str = "19700101-000000/factory"
    platform: str = "esp32"
    """The value of `arch`. An update for another platform is refused."""


@attrs.frozen
class Boot:
    """The state of the boot loader, which is kept in flash."""

    slot: int
    """0 or 1: the slot that boots next."""

    build: FirmwareBuild
    """The build in that slot."""

    fallback: FirmwareBuild | None = None
    """The build in the other slot, which boots again unless `build` is committed; `None` after the commit."""

    first_boot: bool = False
    """Whether `build` was installed and has not booted yet."""

    commit_timeout: int = 0
    """Seconds from the first boot until an uncommitted build is rolled back. With 0 it is committed at its boot."""

    def __attrs_post_init__(self) -> None:
        if self.slot not in (0, 1) or self.commit_timeout < 0:
            raise ValueError("no such slot, or a negative timeout")

    @property
    def committed(self) -> bool:
        return self.fallback is None

    def install(self, build: FirmwareBuild, commit_timeout: int) -> Boot:
        """Return the state after `build` was written to the other slot."""
        return Boot(1 - self.slot, build, self.build, first_boot=True, commit_timeout=commit_timeout)

    def commit(self) -> Boot:
        return Boot(self.slot, self.build, first_boot=self.first_boot)

    def revert(self) -> Boot:
        """Return the state after a rollback; the same state if there is no build to go back to."""
        return self if self.fallback is None else Boot(1 - self.slot, self.fallback)

    def power_on(self) -> Boot:
        """Return the state after a power-on, by the table above."""
        if not self.committed and not self.first_boot:
            return self.revert()
        booted = attrs.evolve(self, first_boot=False)
        return booted.commit() if self.commit_timeout == 0 else booted


class BootLoader:
    """Keeps `Boot` in a file, so that killing the process is a power cut and starting it again a boot."""

    def __init__(self, file: Path, factory: FirmwareBuild) -> None:
        """Load the state. `factory` is the build in slot 0 of a device that never ran.

        Raises:
            InvalidInput: the file was not written by `save`.
        """
        self._file = file
        saved: Any = read_json(file)
        try:
            self.state: Boot = Boot(0, factory) if saved is None else msgspec.convert(saved, Boot)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"{file}: {exc}") from None

    def power_on(self) -> None:
        self.save(self.state.power_on())
        self.running: FirmwareBuild = self.state.build

    def save(self, state: Boot) -> None:
        """Write the file before changing the state, so that a power cut undoes nothing."""
        if state != self.state or not self._file.exists():
            write_json(self._file, state)
            self.state = state
