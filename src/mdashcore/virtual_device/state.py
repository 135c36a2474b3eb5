"""The device's state: the shadow's deltas change it, and the device reports it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.shadow import JsonObject, merge
from mdashcore.virtual_device._flash import read_json, write_json

__all__ = ["DeviceState"]

REPORTED_ONLY: Final = frozenset({"ota", "stats"})  # the device reports these; they are never desired
MAX_STATE: Final = 32_768  # bytes: the limit of the shadow that it mirrors


class DeviceState:
    """A JSON object in a file. Merge patches (RFC 7396) change it."""

    def __init__(self, file: Path) -> None:
        """Load the state.

        Raises:
            InvalidInput: the file holds no JSON object.
        """
        self._file = file
        saved = read_json(file)
        if saved is not None and not isinstance(saved, dict):
            raise InvalidInput(f"{file}: not a JSON object")
        self.tree: JsonObject = saved or {}

    def apply(self, delta: object) -> JsonObject:
        """Merge a delta, and return the state to report: the delta without the reserved keys.

        Raises:
            InvalidInput: the delta is no object, or the state would become too large. Nothing was changed.
        """
        if not isinstance(delta, dict):
            raise InvalidInput("a delta must be an object")
        wanted = {key: value for key, value in delta.items() if key not in REPORTED_ONLY}
        tree = merge(self.tree, wanted)
        if len(_json.encode(tree)) > MAX_STATE:
            raise InvalidInput(f"the state would be longer than {MAX_STATE} bytes")
        if wanted:
            write_json(self._file, tree)
            self.tree = tree
        return wanted
