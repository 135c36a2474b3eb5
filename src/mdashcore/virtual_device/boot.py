"""Which firmware boots: two slots, and the rule that an update has to be committed to stay.

====================  ===================  ==========================================================
at power-on           commit_timeout       what happens
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

__all__ = ["Boot", "BootLoader", "Build"]


@attrs.frozen
class Build:
    """A firmware build, in the words of its manifest."""

    app: str = "virtual-device"
    """The manifest's `name`."""

    version: str = "1.0"
    build_id: str = "19700101-000000/factory"
    platform: str = "esp32"
    """What `arch` reports. An update for another platform is refused."""


@attrs.frozen
class Boot:
    """What the boot loader keeps in flash."""

    slot: int
    """0 or 1: the slot that boots next."""

    build: Build
    """What is in it."""

    fallback: Build | None = None
    """What is in the other slot, and boots again unless `build` is committed; None once it is."""

    first_boot: bool = False
    """`build` was installed and has not booted yet."""

    commit_timeout: int = 0
    """Seconds from the first boot until it is rolled back if nobody committed it; 0: it commits itself."""

    def __attrs_post_init__(self) -> None:
        if self.slot not in (0, 1) or self.commit_timeout < 0:
            raise ValueError("no such slot, or a negative timeout")

    @property
    def committed(self) -> bool:
        return self.fallback is None

    def install(self, build: Build, commit_timeout: int) -> Boot:
        """`build` was written to the other slot."""
        return Boot(1 - self.slot, build, self.build, first_boot=True, commit_timeout=commit_timeout)

    def commit(self) -> Boot:
        return Boot(self.slot, self.build, first_boot=self.first_boot)

    def revert(self) -> Boot:
        """Nothing to go back to: no change."""
        return self if self.fallback is None else Boot(1 - self.slot, self.fallback)

    def power_on(self) -> Boot:
        """The table above."""
        if not self.committed and not self.first_boot:
            return self.revert()
        booted = attrs.evolve(self, first_boot=False)
        return booted.commit() if self.commit_timeout == 0 else booted


class BootLoader:
    """Keeps `Boot` in a file, so that killing the process is a power cut and starting it again a boot."""

    def __init__(self, file: Path, factory: Build) -> None:
        """`factory` is the build in slot 0 of a device that never ran.

        Raises:
            InvalidInput: the file is not one that `save` wrote.
        """
        self._file = file
        saved: Any = read_json(file)
        try:
            self.state: Boot = Boot(0, factory) if saved is None else msgspec.convert(saved, Boot)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"{file}: {exc}") from None

    def power_on(self) -> None:
        self.save(self.state.power_on())
        self.running: Build = self.state.build

    def save(self, state: Boot) -> None:
        """The file first: nothing is done that a power cut would undo."""
        if state != self.state or not self._file.exists():
            write_json(self._file, state)
            self.state = state
