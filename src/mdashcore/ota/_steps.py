"""The next step of an update, which is a call or a pause, and the time limits of its states."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import attrs

from mdashcore._checked import checked
from mdashcore.ota._values import Session, Update, UpdateState


@attrs.frozen
class Begin:
    """Call `OTA.Begin`."""

    size: int
    timeout: int
    commit_timeout: int
    method: ClassVar[str] = "OTA.Begin"
    call_timeout: ClassVar[float] = 60.0  # some devices erase their flash before they answer

    def params(self) -> dict[str, int]:
        """Return the parameters of the call."""
        return attrs.asdict(self)


@attrs.frozen
class Write:
    """Call `OTA.Write` with the image's bytes `offset` to `offset + size`."""

    offset: int
    size: int
    method: ClassVar[str] = "OTA.Write"
    call_timeout: ClassVar[float] = 30.0  # a flash sector, an erase, a slow radio: seconds, not minutes

    def params(self, data: bytes) -> dict[str, int | str]:
        """Return the parameters of the call; `data` are the image's bytes from `offset` on, `size` of them."""
        return {"offset": self.offset, "data": base64.b64encode(data).decode("ascii")}


@attrs.frozen
class End:
    """Call `OTA.End`, without parameters."""

    method: ClassVar[str] = "OTA.End"
    call_timeout: ClassVar[float] = 60.0  # the device may read back all that it has written


@attrs.frozen
class Commit:
    """Call `OTA.Commit`, without parameters."""

    method: ClassVar[str] = "OTA.Commit"
    call_timeout: ClassVar[float] = 15.0


@attrs.frozen
class Ask:
    """Call `Sys.GetInfo` and `OTA.Status`, and give both answers to the update as one `BuildReported`.

    The event includes earlier reports of the device on this link. Not every device has `OTA.Status`:
    `BuildReported.status` says so. If the device has said nothing at all, the event is `StepFailed` or
    `StepTimedOut`, with the method of this step.
    """

    method: ClassVar[str] = "OTA.Status"
    methods: ClassVar[tuple[str, ...]] = ("Sys.GetInfo", "OTA.Status")
    call_timeout: ClassVar[float] = 15.0


@attrs.frozen
class Wait:
    """Call nothing. The next event comes from elsewhere, or is the deadline."""

    until: float | None = None
    """The end of a pause, in Unix seconds; `None` if this is no pause."""
    method: ClassVar[None] = None


Step: TypeAlias = Begin | Write | End | Commit | Ask | Wait
"""Any of the steps of an update."""


def next_step(update: Update, *, in_flight: int = 0) -> Step | None:
    """Return the next step; `None` if the update has ended.

    Args:
        in_flight: bytes from `update.offset` on that are sent and not yet answered. With
            `options.chunks_in_flight` above 1, the performer calls this again with more bytes until it gets a `Wait`.

    Raises:
        TypeError: `update` has another type.
    """
    if not isinstance(update, Update):
        raise TypeError(f"an Update is needed, not {update!r:.60}")
    if update.ended:
        return None
    if not update.connected:
        return Wait()
    if update.state is UpdateState.UNCOMMITTED and update.commit_requested and not update.reconnected:
        return Commit()
    if update.not_before is not None:
        return Wait(update.not_before)
    if update.state is UpdateState.VERIFYING:
        return End()
    if update.state is not UpdateState.TRANSFERRING or update.session is Session.LOST:
        return Ask()
    options = update.options
    if update.session in (Session.NONE, Session.UNSURE):
        return Begin(update.image.size, options.timeout, options.commit_timeout)
    offset = update.offset + in_flight
    if in_flight >= options.chunks_in_flight * options.chunk_size or offset >= update.image.size:
        return Wait()
    return Write(offset, min(options.chunk_size, update.image.size - offset))


@attrs.frozen(field_transformer=checked)
class StateLimits:
    """The time that an update may stay in a state."""

    idle: float
    """Seconds without progress."""
    total: float
    """Seconds in the state."""


_MINUTE, _DAY = 60.0, 86_400.0

STATE_LIMITS: Mapping[UpdateState, StateLimits] = {
    # A device that was not seen for a week; a device that comes and goes, but never gets its turn, for a month.
    UpdateState.QUEUED: StateLimits(7 * _DAY, 30 * _DAY),
    # On top of `options.timeout`, after which the device itself has given up. 16 MB at one chunk a second
    # take under 5 hours; a day is enough for three such attempts with reconnects. A device that still holds an earlier
    # transfer may have got a timeout of a day for it.
    UpdateState.TRANSFERRING: StateLimits(5 * _MINUTE, 2 * _DAY),
    # One call. After the limit the update goes on to REBOOTING, where the device's report decides.
    UpdateState.VERIFYING: StateLimits(2 * _MINUTE, 10 * _MINUTE),
    # Boot, unpack a file system, find the network.
    UpdateState.REBOOTING: StateLimits(15 * _MINUTE, _DAY),
    # On top of `options.commit_timeout`: the device rolls back by itself, reboots and reports.
    UpdateState.UNCOMMITTED: StateLimits(5 * _MINUTE, 5 * _MINUTE),
}
"""The limits of each state. An end has no limit. The time in which no performer performs the update does not count:
the idle limit begins anew after it, and the total limit is later by it.
"""


def limits(update: Update) -> StateLimits | None:
    """Return the limits of the update's state, with the time-outs of its options; `None` for an end."""
    base = STATE_LIMITS.get(update.state)
    if base is None:
        return None
    options = update.options
    own = {UpdateState.TRANSFERRING: options.timeout, UpdateState.UNCOMMITTED: options.commit_timeout}.get(
        update.state, 0
    )
    return StateLimits(base.idle + own, base.total + own)


def time_limit(update: Update) -> float | None:
    """Return when the idle or the total limit of the state is reached, in Unix seconds; `None` for an end."""
    limit = limits(update)
    if limit is None:
        return None
    active = update.active if update.waits_until is None else max(update.active, update.waits_until)
    return min(active + limit.idle, update.changed + update.unattended + limit.total)


def awaited(update: Update) -> str | None:
    """Return the method whose answer the update waits for. Any other answer is late."""
    step = next_step(update)
    return None if step is None else step.method


def next_deadline(update: Update) -> float | None:
    """Return when `UpdateDeadlinePassed` is due, in Unix seconds; `None` for an end."""
    limit = time_limit(update)
    if limit is None or update.not_before is None:
        return limit
    return min(limit, update.not_before)


def commit_deadline(update: Update) -> float | None:
    """Return when an uncommitted device rolls back by itself at the latest, in Unix seconds; `None` if it will not."""
    if update.state is not UpdateState.UNCOMMITTED or update.options.commit_timeout == 0:
        return None
    return update.changed + update.options.commit_timeout


def can_end_transfer(update: Update) -> bool:
    """Return whether a transfer that the device holds can be ended, because this update does not continue it."""
    if update.state is UpdateState.TRANSFERRING:
        return update.waits_until is not None
    return update.ended or update.state is UpdateState.QUEUED


def held_until(update: Update) -> float | None:
    """Return when the device forgets an open transfer at the latest, in Unix seconds; `None` if it holds none.

    The update has left the transfer open, or has found it on the device. The device counts from the last chunk that
    it accepted, which was not after the end of the update.
    """
    if update.state in (UpdateState.UNCOMMITTED, UpdateState.COMMITTED, UpdateState.ROLLED_BACK):
        return None
    times = [time for time in (update.waits_until, update.held_until) if time is not None]
    if update.session is not Session.NONE:
        times.append(update.changed + update.options.timeout)
    return max(times, default=None)
