"""The machine: which event leads from which state to which, and what changes on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs

from mdashcore.ota import _guards as guards
from mdashcore.ota._events import (
    ANSWERS,
    BeginAccepted,
    BuildReported,
    CallFailed,
    CallTimedOut,
    CancelRequested,
    ChunkAccepted,
    CommitAccepted,
    CommitRequested,
    DeadlinePassed,
    DeviceConnected,
    DeviceDisconnected,
    EndAccepted,
    Event,
    NewerUpdateQueued,
    RevertAccepted,
    Started,
)
from mdashcore.ota._guards import Verdict, judge
from mdashcore.ota._steps import Ask, Begin, awaited
from mdashcore.ota._values import ENDS, MAX_TEXT, Build, Session, State, Update

BUSY_MARGIN = 10.0  # seconds on top of the device's own time-out before `OTA.Begin` is tried again
ASK_INTERVAL = 30.0  # seconds between two questions to a device that says nothing decisive; a boot takes less


def _start(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": True, "started": now, "previous_build": e.build}


def _open(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"session": Session.OPEN, "reason": ""}


def _take_chunk(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"offset": e.offset + e.size, "chunk_failures": 0, "reason": ""}


def _repeat_chunk(u: Update, e: Any, now: float) -> dict[str, Any]:
    doubtful = u.doubtful or isinstance(e, CallTimedOut)
    return {"chunk_failures": u.chunk_failures + 1, "doubtful": doubtful, "reason": _words(u, e)}


def _begin_again(u: Update, e: Any, now: float) -> dict[str, Any]:
    busy = isinstance(e, CallFailed) and judge(e.message) is Verdict.BUSY
    return {
        "session": Session.NONE,
        "offset": 0,
        "chunk_failures": 0,
        "doubtful": False,
        "attempt": u.attempt + 1,
        "not_before": now + u.options.timeout + BUSY_MARGIN if busy else None,
        "reason": _words(u, e),
    }


def _lose_link(u: Update, e: Any, now: float) -> dict[str, Any]:
    changes: dict[str, Any] = {"connected": isinstance(e, DeviceConnected), "reason": _words(u, e)}
    if awaited(u) == Begin.method:  # whether the device took it cannot be known
        return changes | {"attempt": u.attempt + 1}
    return changes | {"session": Session.LOST} if u.session is Session.OPEN else changes


def _go_on(u: Update, e: Any, now: float) -> dict[str, Any]:
    taken = guards.taken(u, e.build)
    return {
        "session": Session.OPEN,
        "offset": taken[0],
        "chunk_failures": 0,
        "doubtful": u.doubtful or len(taken) > 1,
        "reason": "",
    }


def _end_again(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"attempt": u.attempt + 1}


def _await_reboot(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Only a link newer than this one speaks after the reboot; a device that stays is asked after a while."""
    new_link = isinstance(e, DeviceConnected)
    connected = new_link or (u.connected and not isinstance(e, DeviceDisconnected))
    return {
        "connected": connected,
        "reconnected": new_link,
        "not_before": None if new_link else now + ASK_INTERVAL,
        "reason": "" if isinstance(e, EndAccepted) else "it is not known whether the device took OTA.End",
    }


def _connect(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": True, "reconnected": True, "not_before": None}


def _disconnect(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": False}


def _ask_later(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"not_before": now + ASK_INTERVAL if u.not_before is None else u.not_before}


def _still_uncommitted(u: Update, e: Any, now: float) -> dict[str, Any]:
    return _ask_later(u, e, now) | {"reconnected": u.reconnected and e.build.is_committed is not False}


def _await_commit(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reconnected": False, "not_before": now + ASK_INTERVAL, "reason": ""}


def _want_commit(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"commit_requested": True}


def _commit_unsure(u: Update, e: Any, now: float) -> dict[str, Any]:
    """OTA.Commit on a committed device is an error too, so the device is asked how it stands."""
    if e.method == Ask.method:
        return _ask_later(u, e, now)
    return {"commit_requested": False, "not_before": None, "reason": _words(u, e)}


def _resume(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"not_before": None}


def _because(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": _words(u, e)}


def _runs_it(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": f"the device runs build {u.image.build_id} already"}


def _not_for_it(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": f"the image is for {u.image.platform}, the device is {e.build.platform}"}


def _roll_back(u: Update, e: Any, now: float) -> dict[str, Any]:
    if isinstance(e, RevertAccepted):
        return {"reason": "reverted on request"}
    name = _name(e.build)
    if u.state is State.UNCOMMITTED:
        return {"reason": f"not committed: the device went back to {name}"}
    unsure = f"; {u.reason}" if u.reason else ""
    return {"reason": f"the device came back with {name}, not with the new image{unsure}"}


def _run_another(u: Update, e: Any, now: float) -> dict[str, Any]:
    wanted = _name(Build(id=u.image.build_id, version=u.image.version))
    return {"reason": f"the device runs {_name(e.build)}: neither the image's {wanted} nor what it ran before"}


def _run_out(u: Update, e: Any, now: float) -> dict[str, Any]:
    last = f"; last: {u.reason}" if u.reason else ""
    return {"reason": f"{_OVERDUE[u.state]} ({max(0.0, now - u.changed):.0f} s){last}"}


_OVERDUE = {
    State.QUEUED: "the device was not there to take the update in time",
    State.TRANSFERRING: "the device stopped taking the image",
    State.REBOOTING: "the device did not say in time what it runs after the reboot, and whether it is committed",
    State.UNCOMMITTED: "not committed in time; the device should have rolled back, and has not said so",
}


def _name(build: Build) -> str:
    if build.id:
        return f"build {build.id}"
    return f"version {build.version}" if build.version else "an unnamed build"


def _words(u: Update, e: Event) -> str:
    match e:
        case CallFailed(method, code, message):
            return f"{method}: {message[:MAX_TEXT] or 'error'} (code {code})"
        case CallTimedOut(method):
            return f"{method}: no answer in time"
        case BuildReported(build) if u.state is State.TRANSFERRING:
            return "the device dropped out, and does not hold the transfer any more"
        case BuildReported(build):
            return f"the device says: {build.message or 'error'}"
        case DeviceConnected() | DeviceDisconnected():
            transfer = f"transfer {u.attempt} of {u.options.max_attempts}"
            return f"the device dropped out at {u.progress_percent} % of {transfer}"
        case CancelRequested() if u.state is State.TRANSFERRING:
            return f"canceled at {u.progress_percent} %; the device forgets the transfer by itself"
        case CancelRequested():
            return "canceled in the queue"
        case NewerUpdateQueued():
            return "a newer update was queued"
        case _:
            return ""


# --------------------------------------------------------------------------------------------- the table

Guard: TypeAlias = Callable[[Update, Any, float], bool]
Action: TypeAlias = Callable[[Update, Any, float], dict[str, Any]]


@attrs.frozen
class Transition:
    """One arrow of the machine."""

    to: State
    when: Guard | None = None
    """None: always."""
    do: Action | None = None
    """Which other fields change."""
    quiet: bool = False
    """It is no sign of getting on: the idle limit keeps counting."""

    @property
    def label(self) -> str:
        """The guard in words, for a drawing; empty: always."""
        return (self.when.__doc__ or "") if self.when is not None else ""


def _table() -> dict[tuple[State, type], tuple[Transition, ...]]:
    s, t = State, Transition
    return {
        (s.QUEUED, Started): (
            t(s.ALREADY_INSTALLED, guards.installed, _runs_it),
            t(s.REJECTED, guards.other_platform, _not_for_it),
            t(s.TRANSFERRING, do=_start),
        ),
        (s.QUEUED, DeviceConnected): (t(s.QUEUED, do=_connect),),
        (s.QUEUED, DeviceDisconnected): (t(s.QUEUED, do=_disconnect),),
        (s.QUEUED, CancelRequested): (t(s.CANCELED, do=_because),),
        (s.QUEUED, NewerUpdateQueued): (t(s.SUPERSEDED, do=_because),),
        (s.QUEUED, DeadlinePassed): (t(s.TIMED_OUT, guards.out_of_time, _run_out),),
        (s.TRANSFERRING, BeginAccepted): (t(s.TRANSFERRING, do=_open),),
        (s.TRANSFERRING, ChunkAccepted): (
            t(s.VERIFYING, guards.last_chunk, _take_chunk),
            t(s.TRANSFERRING, guards.chunk_at_offset, _take_chunk),
        ),
        (s.TRANSFERRING, CallFailed): (
            t(s.ALREADY_INSTALLED, guards.says_same_build, _because),
            t(s.REJECTED, guards.says_wrong_platform, _because),
            t(s.TRANSFERRING, guards.may_repeat_chunk, _repeat_chunk, quiet=True),
            t(s.TRANSFERRING, guards.worth_beginning_again, _begin_again),
            t(s.FAILED, do=_because),
        ),
        (s.TRANSFERRING, CallTimedOut): (
            t(s.TRANSFERRING, guards.may_repeat_chunk, _repeat_chunk, quiet=True),
            t(s.TRANSFERRING, guards.attempts_left, _begin_again),
            t(s.TIMED_OUT, do=_because),
        ),
        (s.TRANSFERRING, DeviceConnected): (
            t(s.FAILED, guards.last_begin_unanswered, _because),
            t(s.TRANSFERRING, do=_lose_link),
        ),
        (s.TRANSFERRING, DeviceDisconnected): (
            t(s.FAILED, guards.last_begin_unanswered, _because),
            t(s.TRANSFERRING, do=_lose_link),
        ),
        (s.TRANSFERRING, BuildReported): (
            t(s.VERIFYING, guards.image_all_taken, _go_on),
            t(s.TRANSFERRING, guards.transfer_still_open, _go_on),
            t(s.TRANSFERRING, guards.may_begin_anew, _begin_again),
            t(s.FAILED, guards.asked, _because),
        ),
        (s.TRANSFERRING, CancelRequested): (t(s.CANCELED, do=_because),),
        (s.TRANSFERRING, DeadlinePassed): (
            t(s.TIMED_OUT, guards.out_of_time, _run_out),
            t(s.TRANSFERRING, guards.pause_over, _resume, quiet=True),
        ),
        (s.VERIFYING, EndAccepted): (t(s.REBOOTING, do=_await_reboot),),
        (s.VERIFYING, CallFailed): (
            t(s.ALREADY_INSTALLED, guards.says_same_build, _because),
            t(s.REJECTED, guards.says_wrong_platform, _because),
            t(s.TRANSFERRING, guards.worth_beginning_again, _begin_again),
            t(s.FAILED, do=_because),
        ),
        (s.VERIFYING, CallTimedOut): (t(s.REBOOTING, do=_await_reboot),),
        (s.VERIFYING, DeviceConnected): (t(s.REBOOTING, do=_await_reboot),),
        (s.VERIFYING, DeviceDisconnected): (t(s.REBOOTING, do=_await_reboot),),
        (s.VERIFYING, DeadlinePassed): (t(s.REBOOTING, guards.out_of_time, _await_reboot),),
        (s.REBOOTING, DeviceConnected): (t(s.REBOOTING, do=_connect),),
        (s.REBOOTING, DeviceDisconnected): (t(s.REBOOTING, do=_disconnect),),
        (s.REBOOTING, BuildReported): (
            t(s.FAILED, guards.says_failed, _because),
            t(s.VERIFYING, guards.end_not_taken, _end_again),
            t(s.REBOOTING, guards.not_rebooted, _ask_later, quiet=True),
            t(s.UNCOMMITTED, guards.new_uncommitted, _await_commit),
            t(s.COMMITTED, guards.new_committed),
            t(s.ROLLED_BACK, guards.old_build, _roll_back),
            t(s.FAILED, guards.another_build, _run_another),
            t(s.REBOOTING, do=_ask_later, quiet=True),
        ),
        (s.REBOOTING, CallFailed): (t(s.REBOOTING, do=_ask_later, quiet=True),),
        (s.REBOOTING, CallTimedOut): (t(s.REBOOTING, do=_ask_later, quiet=True),),
        (s.REBOOTING, DeadlinePassed): (
            t(s.TIMED_OUT, guards.out_of_time, _run_out),
            t(s.REBOOTING, guards.pause_over, _resume, quiet=True),
        ),
        (s.UNCOMMITTED, DeviceConnected): (t(s.UNCOMMITTED, do=_connect),),
        (s.UNCOMMITTED, DeviceDisconnected): (t(s.UNCOMMITTED, do=_disconnect),),
        (s.UNCOMMITTED, BuildReported): (
            t(s.COMMITTED, guards.new_committed),
            t(s.ROLLED_BACK, guards.old_build, _roll_back),
            t(s.FAILED, guards.another_build, _run_another),
            t(s.UNCOMMITTED, do=_still_uncommitted, quiet=True),
        ),
        (s.UNCOMMITTED, CommitRequested): (t(s.UNCOMMITTED, do=_want_commit),),
        (s.UNCOMMITTED, CommitAccepted): (t(s.COMMITTED, guards.on_same_link),),
        (s.UNCOMMITTED, RevertAccepted): (t(s.ROLLED_BACK, do=_roll_back),),
        (s.UNCOMMITTED, CallFailed): (t(s.UNCOMMITTED, do=_commit_unsure, quiet=True),),
        (s.UNCOMMITTED, CallTimedOut): (t(s.UNCOMMITTED, do=_commit_unsure, quiet=True),),
        (s.UNCOMMITTED, DeadlinePassed): (
            t(s.TIMED_OUT, guards.out_of_time, _run_out),
            t(s.UNCOMMITTED, guards.pause_over, _resume, quiet=True),
        ),
    }


TRANSITIONS: Mapping[tuple[State, type], tuple[Transition, ...]] = _table()
"""The machine: (state, kind of event) → arrows, of which the first whose guard holds is taken."""


def advance(update: Update, event: Event, *, now: float) -> Update:
    """The update after an event; the very same object if the event changes nothing."""
    if isinstance(event, ANSWERS) and event.method != awaited(update):
        return update  # the answer to a call that nobody waits for any more
    for transition in TRANSITIONS.get((update.state, type(event)), ()):
        if transition.when is None or transition.when(update, event, now):
            return _take(update, transition, event, now)
    return update


def can_cancel(update: Update) -> bool:
    """Whether `CancelRequested` would end it: not after `OTA.End`, which no call undoes."""
    return (update.state, CancelRequested) in TRANSITIONS


def _take(update: Update, transition: Transition, event: Event, now: float) -> Update:
    changes: dict[str, Any] = {} if transition.quiet else {"active": now}
    if transition.to is not update.state:
        changes |= {"state": transition.to, "changed": now, "not_before": None}
        if transition.to in ENDS:
            changes |= {"reason": ""}
    if transition.do is not None:
        changes |= transition.do(update, event, now)
    result = attrs.evolve(update, **changes)
    return update if result == update else result
