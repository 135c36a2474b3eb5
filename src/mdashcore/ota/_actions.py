"""The actions: which other fields of an update change when an arrow is taken, and the words that go with it.

Each is a function of (update, event, now) that gives the changed fields; the event has the type of its row.
"""

from __future__ import annotations

from typing import Any

from mdashcore.ota import _guards as guards
from mdashcore.ota._events import (
    BuildReported,
    CallFailed,
    CallTimedOut,
    CancelRequested,
    DeviceConnected,
    DeviceDisconnected,
    EndAccepted,
    Event,
    NewerUpdateQueued,
    RevertAccepted,
)
from mdashcore.ota._guards import Verdict, judge
from mdashcore.ota._steps import Ask, Begin, awaited
from mdashcore.ota._values import MAX_TEXT, Build, Session, State, Update

BUSY_MARGIN = 10.0  # seconds on top of the device's own time-out before `OTA.Begin` is tried again
ASK_INTERVAL = 30.0  # seconds between two questions to a device that says nothing decisive; a boot takes less


def start(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": True, "started": now, "previous_build": e.build}


def open_transfer(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"session": Session.OPEN, "reason": "", "begun": now, "taken": None}


def take_chunk(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"offset": e.offset + e.size, "chunk_failures": 0, "reason": "", "taken": now}


def repeat_chunk(u: Update, e: Any, now: float) -> dict[str, Any]:
    doubtful = u.doubtful or isinstance(e, CallTimedOut)
    return {"chunk_failures": u.chunk_failures + 1, "doubtful": doubtful, "reason": _words(u, e)}


def begin_again(u: Update, e: Any, now: float) -> dict[str, Any]:
    busy = isinstance(e, CallFailed) and judge(e.message) is Verdict.BUSY
    return {
        "session": Session.NONE,
        "offset": 0,
        "chunk_failures": 0,
        "doubtful": False,
        "begun": None,
        "taken": None,
        "attempt": u.attempt + 1,
        "not_before": now + u.options.timeout + BUSY_MARGIN if busy else None,
        "reason": _words(u, e),
    }


def lose_link(u: Update, e: Any, now: float) -> dict[str, Any]:
    changes: dict[str, Any] = {"connected": isinstance(e, DeviceConnected), "reason": _words(u, e)}
    may_be_open = u.session is Session.OPEN or awaited(u) == Begin.method
    return changes | {"session": Session.LOST} if may_be_open else changes


def doubt_begin(u: Update, e: Any, now: float) -> dict[str, Any]:
    """A device that took OTA.Begin refuses another one until its time-out, so it is asked."""
    return {"session": Session.LOST, "reason": _words(u, e)}


def go_on(u: Update, e: Any, now: float) -> dict[str, Any]:
    taken = guards.taken(u, e.build)
    return {
        "session": Session.OPEN,
        "offset": taken[0],
        "begun": now if u.begun is None else u.begun,
        "chunk_failures": 0,
        "doubtful": u.doubtful or len(taken) > 1,
        "reason": "",
    }


def end_again(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"attempt": u.attempt + 1}


def await_reboot(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Only a link newer than this one speaks after the reboot; a device that stays is asked after a while."""
    new_link = isinstance(e, DeviceConnected)
    connected = new_link or (u.connected and not isinstance(e, DeviceDisconnected))
    return {
        "connected": connected,
        "reconnected": new_link,
        "end_accepted": isinstance(e, EndAccepted),
        "not_before": None if new_link else now + ASK_INTERVAL,
        "reason": "" if isinstance(e, EndAccepted) else "it is not known whether the device took OTA.End",
    }


def connect(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": True, "reconnected": True, "not_before": None}


def disconnect(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": False}


def ask_later(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"not_before": _next_question(u, u.online_since, now) if u.not_before is None else u.not_before}


def _next_question(u: Update, online_since: float | None, now: float) -> float:
    """When to ask the device again: at the end of its health check, if that comes first."""
    healthy_at = now
    if u.options.auto_commit and online_since is not None:
        healthy_at = online_since + u.options.commit_after
    return min(now + ASK_INTERVAL, healthy_at) if healthy_at > now else now + ASK_INTERVAL


def come_back(u: Update, e: Any, now: float) -> dict[str, Any]:
    return connect(u, e, now) | {"online_since": now}


def go_away(u: Update, e: Any, now: float) -> dict[str, Any]:
    return disconnect(u, e, now) | {"online_since": None}


def still_uncommitted(u: Update, e: Any, now: float) -> dict[str, Any]:
    return ask_later(u, e, now) | {"reconnected": u.reconnected and e.build.is_committed is not False}


def await_commit(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reconnected": False, "online_since": now, "not_before": _next_question(u, now, now), "reason": ""}


def want_commit(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"commit_requested": True}


def commit_healthy(u: Update, e: Any, now: float) -> dict[str, Any]:
    return still_uncommitted(u, e, now) | want_commit(u, e, now)


def commit_unsure(u: Update, e: Any, now: float) -> dict[str, Any]:
    """OTA.Commit on a committed device is an error too, so the device is asked how it stands.

    If it is on trial still, its health is checked anew.
    """
    if e.method == Ask.method:
        return ask_later(u, e, now)
    return {"commit_requested": False, "not_before": None, "online_since": now, "reason": _words(u, e)}


def resume(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"not_before": None}


def because(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": _words(u, e)}


def runs_it(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": f"the device runs build {u.image.build_id} already"}


def not_for_it(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": f"the image is for {u.image.platform}, the device is {e.build.platform}"}


def roll_back(u: Update, e: Any, now: float) -> dict[str, Any]:
    if isinstance(e, RevertAccepted):
        return {"reason": "reverted on request"}
    name = _name(e.build)
    if u.state is State.UNCOMMITTED:
        return {"reason": f"not committed: the device went back to {name}"}
    unsure = f"; {u.reason}" if u.reason else ""
    return {"reason": f"the device came back with {name}, not with the new image{unsure}"}


def run_another(u: Update, e: Any, now: float) -> dict[str, Any]:
    wanted = _name(Build(id=u.image.build_id, version=u.image.version))
    return {"reason": f"the device runs {_name(e.build)}: neither the image's {wanted} nor what it ran before"}


def run_out(u: Update, e: Any, now: float) -> dict[str, Any]:
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
