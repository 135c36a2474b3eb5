"""An entry of the firmware library as a value: an image that is kept, and the states of its removal.

An update that begins is stored first, and reads the entry then. A removal marks the entry as `REMOVING` first, and
looks for updates and rollouts that need the image then. So at least one of the two sees the other, in every order, and
no image is removed under an update::

    KEPT ──BEGIN──▶ REMOVING ──FINISH──▶ (no entry)
     ▲                 │
     └────── KEEP ─────┘   an update or a rollout needs the image

Each step is a compare-and-set of the entry's record, whose version is that at which it was found `REMOVING`. A process
that dies in between leaves an entry that is `REMOVING`, whose removal any other process finishes in the same way. One
that dies before it has read the entry may leave an update or a rollout without an image, which the next node that
takes it up cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import attrs

from mdashcore._errors import InvalidInput
from mdashcore.identity import check_label
from mdashcore.ota import UpdateImage

__all__ = ["BLOB_PREFIX", "ENTRY_PREFIX", "EntryState", "FirmwareEntry", "RemovalStep", "check_notes", "entry_id"]

ENTRY_PREFIX: Final = "fw"  # of an entry's id
BLOB_PREFIX: Final = "img"  # of the id of its blob

DIGEST_LENGTH: Final = 16  # hexadecimal digits of the digest in an id: 64 bits, and the whole digest is compared

MAX_NOTES: Final = 4096  # bytes: what is new in a version, on one screen; the list of a library has all of them


class EntryState(StrEnum):
    """Whether an image can be used."""

    KEPT = "KEPT"
    REMOVING = "REMOVING"  # no update can begin with it any more, unless one that has begun before needs it


class RemovalStep(StrEnum):
    """A step of a removal."""

    BEGIN = "BEGIN"
    KEEP = "KEEP"
    FINISH = "FINISH"


TRANSITIONS: Final[Mapping[tuple[EntryState, RemovalStep], EntryState | None]] = MappingProxyType(
    {
        (EntryState.KEPT, RemovalStep.BEGIN): EntryState.REMOVING,
        (EntryState.REMOVING, RemovalStep.BEGIN): EntryState.REMOVING,  # takes up a removal that was interrupted
        (EntryState.REMOVING, RemovalStep.KEEP): EntryState.KEPT,
        (EntryState.REMOVING, RemovalStep.FINISH): None,
    }
)
"""The state after each allowed step; `None` if the entry is removed then."""


@attrs.frozen(kw_only=True)
class FirmwareEntry:
    """An image in the library of an account."""

    id: str
    """Its address by content: see `entry_id`."""
    blob: str
    """The id of the blob with its bytes, which is another one if the same image is removed and added again."""
    image: UpdateImage
    name: str
    """Text for people: the application in the manifest, or the name of the file, until a user changes it."""
    notes: str = ""
    """Text for people, such as what is new."""
    created: float
    """Unix seconds."""
    uploaded_by: str
    """The name of the user, or of the API key, that has added it: its id, if it has no name."""
    key: str | None = None
    """The id of the API key that has added it; `None` for a user."""
    state: EntryState = EntryState.KEPT

    def after(self, step: RemovalStep) -> FirmwareEntry | None:
        """Return the entry after a step of its removal; `None` if there is none any more. It is in `TRANSITIONS`."""
        state = TRANSITIONS[self.state, step]
        return None if state is None else attrs.evolve(self, state=state)

    def edited(self, name: str | None, notes: str | None) -> FirmwareEntry:
        """Return the entry with other texts. `None` leaves a text as it is. Raises `InvalidInput`."""
        return attrs.evolve(
            self,
            name=self.name if name is None else check_label(name),
            notes=self.notes if notes is None else check_notes(notes),
        )


def entry_id(sha256: str) -> str:
    """Return the id of an image by its content. Everyone with the file can compute it.

    Args:
        sha256: the digest of the whole file, in hexadecimal.

    >>> entry_id("9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08")
    'fw_9f86d081884c7d65'
    """
    return f"{ENTRY_PREFIX}_{sha256[:DIGEST_LENGTH].lower()}"


def check_notes(text: object) -> str:
    """Return the notes. Raises `InvalidInput` for anything but text of `MAX_NOTES` bytes of UTF-8 at most."""
    if not isinstance(text, str):
        raise InvalidInput("notes are text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput("the notes have half a character (a lone surrogate)") from None
    if size > MAX_NOTES:
        raise InvalidInput(f"notes have at most {MAX_NOTES} bytes of UTF-8, not {size}")
    return text
