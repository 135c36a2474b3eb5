"""The actions of the machine: the other fields that a transition changes.

Each function takes (update, event, now) and returns the changed fields. The event has the type of its row.
"""

from __future__ import annotations

from typing import Any

import attrs

from mdashcore.ota import _guards as guards
from mdashcore.ota._builds import Build
from mdashcore.ota._events import (
    BuildReported,
    DeviceConnected,
    DeviceDisconnected,
    EndAccepted,
    RevertAccepted,
    StepTimedOut,
)
from mdashcore.ota._reasons import COMMIT_UNKNOWN, OVERDUE, build_name, event_reason, waiting_reason
from mdashcore.ota._reports import Runs, lacks_method, runs
from mdashcore.ota._reports import taken as taken_offsets
from mdashcore.ota._steps import Ask, Begin, awaited
from mdashcore.ota._values import Session, Update, UpdateState

BUSY_INTERVAL = 30.0  # seconds between two tries of `OTA.Begin` meanwhile: the device may have forgotten earlier
END_DELAY = 2.0  # seconds from an OTA.End of a person until `OTA.Begin` is tried: a device may reboot for it
INTRODUCTION_TIME = 3.0  # seconds on a new link in which a device says by itself what it runs, or is asked by its node
ASK_INTERVAL = 30.0  # seconds between two questions to a device that says nothing decisive; a boot takes less


def start(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": True, "started": now, "previous_build": e.build}


def start_unknown(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": True, "started": now, "questions": 0}


def expect_introduction(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": True, "not_before": now + INTRODUCTION_TIME}


def open_transfer(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {
        "session": Session.OPEN,
        "offset": 0,
        "chunk_failures": 0,
        "doubtful": False,
        "questions": 0,
        "reason": "",
        "begun": now,
        "taken": None,
        "attempt": u.attempt + (u.session is Session.UNSURE),
        "held_until": None,
        "waits_until": None,
    }


def take_chunk(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"offset": e.offset + e.size, "chunk_failures": 0, "reason": "", "taken": now}


def repeat_chunk(u: Update, e: Any, now: float) -> dict[str, Any]:
    doubtful = u.doubtful or isinstance(e, StepTimedOut)
    return {"chunk_failures": u.chunk_failures + 1, "doubtful": doubtful, "reason": event_reason(u, e)}


def begin_again(u: Update, e: Any, now: float) -> dict[str, Any]:
    held = now + u.options.timeout if u.session is not Session.NONE else u.held_until
    if isinstance(e, BuildReported) and e.build.status != 1:
        held = None  # the device says that it holds none
    return {
        "session": Session.NONE,
        "offset": 0,
        "chunk_failures": 0,
        "doubtful": False,
        "begun": None,
        "taken": None,
        "attempt": u.attempt + 1,
        "questions": 0,
        "not_before": None,
        "held_until": held,
        "reason": event_reason(u, e),
    }


def probe(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Try `OTA.Begin`. A device that has forgotten the transfer accepts it, and one that holds the transfer refuses
    it.
    """
    return {
        "session": Session.UNSURE,
        "questions": 0,
        "not_before": None,
        "held_until": now + u.options.timeout,
    }


def go_on_unsaid(u: Update, e: Any, now: float) -> dict[str, Any]:
    begun = now if u.begun is None else u.begun
    return {
        "session": Session.OPEN,
        "chunk_failures": 0,
        "doubtful": True,
        "begun": begun,
        "held_until": None,
        "reason": "",
    }


def await_device(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Wait until the device forgets a transfer. It does so after the timeout that it was given with `OTA.Begin`."""
    until = u.waits_until
    if until is None:
        known = u.held_until if u.held_until is not None and u.held_until > now else None
        until = (now + u.options.timeout if known is None else known) + guards.BUSY_MARGIN
    return _wait(until) | {"questions": 0, "not_before": min(now + BUSY_INTERVAL, until)}


def await_begun(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Wait until the device forgets the earlier transfer, and the one that it may have begun now.

    `OTA.Begin` is tried again, and its answer tells.
    """
    until = u.waits_until or (u.held_until or now) + guards.BUSY_MARGIN
    if u.questions < guards.BEGIN_TRIES:
        until = max(until, now + u.options.timeout + guards.BUSY_MARGIN)
    changes = _wait(until) | {"questions": u.questions + 1}
    if isinstance(e, StepTimedOut):
        return changes | {"not_before": min(now + BUSY_INTERVAL, until)}
    return changes | {"not_before": None, "connected": isinstance(e, DeviceConnected)}


def _wait(until: float) -> dict[str, Any]:
    return {
        "session": Session.NONE,
        "offset": 0,
        "begun": None,
        "taken": None,
        "waits_until": until,
        "reason": waiting_reason(until),
    }


def never_forgot(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {
        "reason": f"{event_reason(u, e)}: the device does not forget the transfer before; end it, or restart the device"
    }


def try_now(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Stop waiting: a device that has restarted has forgotten the transfer."""
    return {"connected": True, "not_before": None}


def try_soon(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"not_before": now + END_DELAY}


def lose_link(u: Update, e: Any, now: float) -> dict[str, Any]:
    changes = {"connected": isinstance(e, DeviceConnected), "not_before": None, "reason": event_reason(u, e)}
    may_be_open = u.session is Session.OPEN or awaited(u) == Begin.method
    return changes | {"session": Session.LOST} if may_be_open else changes


def doubt_begin(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Ask the device: if it did accept `OTA.Begin`, it refuses another one until its time-out."""
    return {"session": Session.LOST, "reason": event_reason(u, e)}


def go_on(u: Update, e: Any, now: float) -> dict[str, Any]:
    taken = taken_offsets(u, e.build)
    return {
        "session": Session.OPEN,
        "offset": taken[0],
        "questions": 0,
        "begun": now if u.begun is None else u.begun,
        "held_until": None,
        "chunk_failures": 0,
        "doubtful": u.doubtful or len(taken) > 1,
        "reason": "",
    }


def end_again(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"attempt": u.attempt + 1}


def await_reboot(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Wait for a new link. Only a link newer than this one can speak for the build after the reboot.

    A device that stays on its link is asked after a while.
    """
    new_link = isinstance(e, DeviceConnected)
    connected = new_link or (u.connected and not isinstance(e, DeviceDisconnected))
    return {
        "connected": connected,
        "reconnected": new_link,
        "online_since": now if new_link else None,
        "questions": 0,
        "end_accepted": isinstance(e, EndAccepted),
        "not_before": None if new_link else now + ASK_INTERVAL,
        "reason": "" if isinstance(e, EndAccepted) else "it is not known whether the device took OTA.End",
    }


def connect(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": True, "reconnected": True, "not_before": None}


def disconnect(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"connected": False}


def ask_later(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Schedule the next question. A report that the device sent by itself does not delay it."""
    unasked = isinstance(e, BuildReported) and not e.asked
    if unasked and (u.state is not UpdateState.UNCOMMITTED or e.build.is_committed is None):
        return {}
    return {
        "not_before": _next_question(u, u.online_since, now) if u.not_before is None else u.not_before,
        "questions": u.questions + (not unasked and u.state is not UpdateState.UNCOMMITTED),
    }


def _next_question(u: Update, online_since: float | None, now: float) -> float:
    """Return the time of the next question: the end of the health check, if that comes first."""
    times = [now + ASK_INTERVAL]
    if u.state is UpdateState.REBOOTING and online_since is not None:
        times.append(online_since + guards.REBOOT_GRACE)
    elif u.options.auto_commit and online_since is not None:
        times.append(online_since + u.options.commit_after)
    return min(time for time in times if time > now)


def come_back(u: Update, e: Any, now: float) -> dict[str, Any]:
    return connect(u, e, now) | {"online_since": now}


def go_away(u: Update, e: Any, now: float) -> dict[str, Any]:
    return disconnect(u, e, now) | {"online_since": None}


def still_uncommitted(u: Update, e: Any, now: float) -> dict[str, Any]:
    said = e.build.is_committed is False
    unknown = u.commit_unknown and not said
    seen = said or (unknown and guards.asked(u, e, now) and runs(u, e.build) is Runs.NEW)
    changes = {"reconnected": u.reconnected and not seen, "commit_unknown": unknown}
    return ask_later(u, e, now) | changes | ({"reason": ""} if said and u.commit_unknown else {})


def await_commit(u: Update, e: Any, now: float) -> dict[str, Any]:
    trial = attrs.evolve(u, state=UpdateState.UNCOMMITTED)
    return {
        "reconnected": False,
        "online_since": now,
        "not_before": _next_question(trial, now, now),
        "questions": 0,
        "reason": "",
    }


def await_commit_unknown(u: Update, e: Any, now: float) -> dict[str, Any]:
    return await_commit(u, e, now) | {"commit_unknown": True, "reason": COMMIT_UNKNOWN}


def settle_commit(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"commit_settled": True}


def stay(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": "the device has no OTA.Commit: it does not try a build before it keeps it"}


def stay_committed(u: Update, e: Any, now: float) -> dict[str, Any]:
    return stay(u, e, now) if lacks_method(e.code, e.message) else {}


def stay_kept(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {} if u.commit_settled else {"reason": "still there after the commit time-out; the device did not say more"}


def want_commit(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"commit_requested": True}


def commit_healthy(u: Update, e: Any, now: float) -> dict[str, Any]:
    return still_uncommitted(u, e, now) | want_commit(u, e, now)


def commit_unsure(u: Update, e: Any, now: float) -> dict[str, Any]:
    """Ask the device for its state, because `OTA.Commit` on a committed device is an error too.

    If the build is still on trial, its health check begins again.
    """
    if e.method == Ask.method:
        return ask_later(u, e, now)
    return {
        "commit_requested": False,
        "not_before": None,
        "online_since": now,
        "reason": event_reason(u, e),
    }


def resume(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"not_before": None}


def because(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": event_reason(u, e)}


def give_up(u: Update, e: Any, now: float) -> dict[str, Any]:
    return because(u, e, now) | _may_be_begun(u)


def _may_be_begun(u: Update) -> dict[str, Any]:
    """Return the session of an update that ends while the answer to `OTA.Begin` may be on its way."""
    return {"session": Session.LOST} if awaited(u) == Begin.method else {}


def runs_it(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": f"the device runs build {u.image.build_id} already"}


def not_for_it(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": f"the image is for {u.image.platform}, the device is {e.build.platform}"}


def not_its_app(u: Update, e: Any, now: float) -> dict[str, Any]:
    return {"reason": f"the image is of the application {u.image.app}, the device runs {e.build.app}"}


def roll_back(u: Update, e: Any, now: float) -> dict[str, Any]:
    if isinstance(e, RevertAccepted):
        return {"reason": "reverted on request"}
    name = build_name(e.build)
    if u.state is UpdateState.UNCOMMITTED:
        return {"reason": f"not committed: the device went back to {name}"}
    unsure = f"; {u.reason}" if u.reason else ""
    return {"reason": f"the device came back with {name}, not with the new image{unsure}"}


def run_another(u: Update, e: Any, now: float) -> dict[str, Any]:
    wanted = build_name(Build(id=u.image.build_id, version=u.image.version))
    return {"reason": f"the device runs {build_name(e.build)}: neither the image's {wanted} nor what it ran before"}


def run_out(u: Update, e: Any, now: float) -> dict[str, Any]:
    said = "it may hold the transfer before" if u.waits_until is not None else u.reason
    last = f"; last: {said}" if said else ""
    return {"reason": f"{OVERDUE[u.state]} ({max(0.0, now - u.changed - u.unattended):.0f} s){last}"} | _may_be_begun(u)
