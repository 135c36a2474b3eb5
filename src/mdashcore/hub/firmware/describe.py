"""Images of the library as users see them."""

from __future__ import annotations

from typing import Any

import attrs

from mdashcore.firmware_entry import FirmwareEntry

__all__ = ["describe"]


def describe(entry: FirmwareEntry) -> dict[str, Any]:
    """Return an entry as plain values. Times are Unix seconds."""
    image = attrs.asdict(entry.image)
    return {
        "id": entry.id,
        "name": entry.name,
        "notes": entry.notes,
        "file": image.pop("name"),
        **image,
        "state": entry.state,
        "created": entry.created,
        "uploaded_by": entry.uploaded_by,
        "key": entry.key,
    }
