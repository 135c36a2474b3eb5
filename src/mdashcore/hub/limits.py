"""The limits of one account, so that no tenant takes the service from the others."""

from __future__ import annotations

from typing import Any, Final

import attrs

from mdashcore._checked import checked

__all__ = ["PER_PROCESS", "AccountLimits", "is_per_process"]

PER_PROCESS: Final = "per_process"  # metadata of a field: each process counts for itself


def _per_process(default: int) -> Any:
    return attrs.field(default=default, metadata={PER_PROCESS: True})


@attrs.frozen(field_transformer=checked)
class AccountLimits:
    """The limits of an account. Beyond one a request is answered 429 with the name of the limit, which is the field's.

    The limits of stored data hold for the whole service, with any number of processes; the others for each process.
    """

    devices: int = 100_000
    """Devices: a shadow each, of 32 KB at most, so 3.2 GB in the store; real ones have 2 KB."""

    keys: int = 1_000
    """API keys: one for each program that a company has."""

    sessions: int = 32
    """Browser sessions: more browsers than a person has. One more is not refused: it ends the oldest."""

    rollouts: int = 200
    """Rollouts that are kept, ended ones too: more than an operator remembers. A list has all of them."""

    open_rollouts: int = 100
    """Rollouts that have not ended: each has its devices in memory. Those that only wait for devices do not count."""

    firmware: int = 1_000
    """Images in the firmware library: a version a day for three years. A list has all of them."""

    jobs: int = 50
    """Jobs that are kept: one more removes the oldest that has ended. One of 100 000 devices has 7 MB of results."""

    open_jobs: int = 10
    """Jobs that have not ended: one after the other has its turn, so more of them end no sooner."""

    image_bytes: int = 4 * 2**30
    """Bytes of the images that are stored, in the library and for updates and rollouts: 4 GiB, a thousand images of a
    large device."""

    uploads: int = _per_process(8)
    """Images that are being uploaded at the same time: a fourth of the uploads that the process accepts."""

    downloads: int = _per_process(16)
    """Images that are being downloaded at the same time: the runners of a company's CI. Each has 64 KB in memory."""

    subscribers: int = _per_process(200)
    """Notification sockets: the dashboards and programs of a large company. Each has 64 KB in memory at most."""

    lists: int = _per_process(4)
    """Long lists (of devices, notifications, values over time, a rollout's members, a backup) that are being answered
    at the same time: each takes a part of a core until it is read."""


def is_per_process(name: str) -> bool:
    """Return whether each process counts a limit for itself."""
    return bool(getattr(attrs.fields(AccountLimits), name).metadata.get(PER_PROCESS))
