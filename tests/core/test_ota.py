"""Updates end, in a state that is true: the table walked as a whole, cases one by one, and laws."""

from __future__ import annotations

import base64
import json
from typing import Any, get_args

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.ota import (
    ENDS,
    LIMITS,
    MAX_CHUNK_SIZE,
    TRANSITIONS,
    Ask,
    Begin,
    BeginAccepted,
    Build,
    BuildReported,
    CallFailed,
    CallTimedOut,
    CancelRequested,
    ChunkAccepted,
    Commit,
    CommitAccepted,
    CommitRequested,
    DeadlinePassed,
    DeviceConnected,
    DeviceDisconnected,
    End,
    EndAccepted,
    Event,
    Image,
    NewerUpdateQueued,
    Options,
    RevertAccepted,
    Session,
    Started,
    State,
    Update,
    Wait,
    Write,
    advance,
    can_cancel,
    commit_deadline,
    limits,
    next_deadline,
    next_step,
)

S = State
LIVE = [state for state in State if state not in ENDS]
EVENTS: tuple[type, ...] = get_args(Event)

ZIP = Image(name="fw.zip", size=2500, sha256="00" * 32, build_id="new", version="2.0", platform="esp32")
BARE = Image(name="fw.bin", size=2500, sha256="00" * 32, bare=True)
OLD = Build(id="old", version="1.0", platform="esp32", partition=0, is_committed=True, status=0)
TRIAL = Build(id="new", version="2.0", partition=1, is_committed=False, status=0)
KEPT = attrs.evolve(TRIAL, is_committed=True)
NOW = 1000.0


def queued(image: Image = ZIP, **options: Any) -> Update:
    return Update(id="u1", image=image, created=NOW, options=Options(**options))


def after(update: Update, *events: Event, now: float = NOW) -> Update:
    for event in events:
        update = advance(update, event, now=now)
    return update


LOST_LINK = (DeviceDisconnected(), DeviceConnected())
CHUNKS = (ChunkAccepted(0, 1024), ChunkAccepted(1024, 1024), ChunkAccepted(2048, 452))


def transferring(image: Image = ZIP, **options: Any) -> Update:
    return after(queued(image, **options), Started(OLD), BeginAccepted())


def verifying(image: Image = ZIP, **options: Any) -> Update:
    return after(transferring(image, **options), *CHUNKS)


def rebooted(image: Image = ZIP, **options: Any) -> Update:
    return after(verifying(image, **options), EndAccepted(), *LOST_LINK)


def uncommitted(image: Image = ZIP, **options: Any) -> Update:
    return after(rebooted(image, **options), BuildReported(TRIAL))


def failed(method: str, message: str = "some trouble") -> CallFailed:
    return CallFailed(method, -1, message)


class TestTheTable:
    def test_every_live_state_can_be_left_and_no_end_can(self) -> None:
        """Ends are exactly the states without an arrow."""
        assert {state for state, _ in TRANSITIONS} == set(LIVE)

    def test_every_live_state_has_limits_and_an_arrow_for_them(self) -> None:
        """An update nobody hears of ends all the same."""
        assert set(LIMITS) == set(LIVE)
        assert all((state, DeadlinePassed) in TRANSITIONS for state in LIVE)

    def test_every_end_is_reached(self) -> None:
        """No state is there for show."""
        targets = {arrow.to for arrows in TRANSITIONS.values() for arrow in arrows}
        assert targets == set(State)

    def test_a_drawing_finds_words_for_every_arrow(self) -> None:
        """Only the last arrow of a cell may be without a condition, and each condition has words."""
        for arrows in TRANSITIONS.values():
            assert all(arrow.label for arrow in arrows[:-1])
            assert len({arrow.label for arrow in arrows}) == len(arrows)

    def test_only_what_is_queued_or_being_sent_can_be_canceled(self) -> None:
        """After OTA.End there is no way back that the service could take."""
        can = {state for state in State if can_cancel(attrs.evolve(queued(), state=state))}
        assert can == {S.QUEUED, S.TRANSFERRING}


# What the machine stands in (by name), and each event's effect. An event that is not listed changes nothing.
SITUATIONS: dict[str, Update] = {
    "queued": queued(),
    "begin sent": after(queued(), Started(OLD)),
    "chunk sent": after(transferring(), ChunkAccepted(0, 1024)),
    "offline": after(transferring(), ChunkAccepted(0, 1024), DeviceDisconnected()),
    "asked": after(transferring(), ChunkAccepted(0, 1024), *LOST_LINK),
    "end sent": verifying(),
    "before the reboot": after(verifying(), EndAccepted()),
    "after the reboot": rebooted(),
    "on trial": uncommitted(),
    "on trial, reconnected": after(uncommitted(), *LOST_LINK),
    **{end.value: attrs.evolve(queued(), state=end) for end in sorted(ENDS)},
}
HAPPENINGS: dict[str, Event] = {
    "started": Started(OLD),
    "started, has it": Started(KEPT),
    "started, other platform": Started(attrs.evolve(OLD, platform="esp8266")),
    "begin ok": BeginAccepted(),
    "begin error": failed("OTA.Begin"),
    "begin silent": CallTimedOut("OTA.Begin"),
    "chunk ok": ChunkAccepted(1024, 1024),
    "other chunk ok": ChunkAccepted(0, 1024),
    "chunk error": failed("OTA.Write"),
    "chunk bad": failed("OTA.Write", "Invalid CRC"),
    "chunk: platform": failed("OTA.Write", "Wrong platform"),
    "chunk: version": failed("OTA.Write", "Version is the same as current"),
    "chunk silent": CallTimedOut("OTA.Write"),
    "end ok": EndAccepted(),
    "end error": failed("OTA.End", "Wrong state for finalize"),
    "end silent": CallTimedOut("OTA.End"),
    "status error": failed("OTA.Status", "No handler for OTA.Status"),
    "status silent": CallTimedOut("OTA.Status"),
    "commit error": failed("OTA.Commit"),
    "commit silent": CallTimedOut("OTA.Commit"),
    "connected": DeviceConnected(),
    "disconnected": DeviceDisconnected(),
    "idle, old": BuildReported(OLD),
    "receiving, 40 %": BuildReported(attrs.evolve(OLD, status=1, progress_percent=40)),
    "receiving, 100 %": BuildReported(attrs.evolve(OLD, status=1, progress_percent=100)),
    "error, old": BuildReported(attrs.evolve(OLD, status=2, message="no")),
    "about to reboot": BuildReported(attrs.evolve(OLD, status=3)),
    "new, on trial": BuildReported(TRIAL),
    "new, committed": BuildReported(KEPT),
    "new": BuildReported(attrs.evolve(TRIAL, is_committed=None)),
    "another": BuildReported(attrs.evolve(OLD, id="other")),
    "says nothing": BuildReported(Build()),
    "commit wanted": CommitRequested(),
    "commit ok": CommitAccepted(),
    "revert ok": RevertAccepted(),
    "cancel": CancelRequested(),
    "newer": NewerUpdateQueued(),
    "deadline": DeadlinePassed(),
}
LINK = {"connected", "disconnected"}
EFFECTS: dict[str, dict[str, State]] = {
    "queued": {
        "started": S.TRANSFERRING,
        "started, has it": S.ALREADY_INSTALLED,
        "started, other platform": S.REJECTED,
        "cancel": S.CANCELED,
        "newer": S.SUPERSEDED,
        "deadline": S.TIMED_OUT,
        **dict.fromkeys(LINK, S.QUEUED),
    },
    "begin sent": {
        "begin ok": S.TRANSFERRING,
        "begin error": S.FAILED,
        "begin silent": S.TRANSFERRING,
        **dict.fromkeys(LINK, S.TRANSFERRING),
        "cancel": S.CANCELED,
        "deadline": S.TIMED_OUT,
    },
    "chunk sent": {
        "chunk ok": S.TRANSFERRING,
        "chunk error": S.TRANSFERRING,
        "chunk bad": S.FAILED,
        "chunk: platform": S.REJECTED,
        "chunk: version": S.ALREADY_INSTALLED,
        "chunk silent": S.TRANSFERRING,
        **dict.fromkeys(LINK, S.TRANSFERRING),
        "cancel": S.CANCELED,
        "deadline": S.TIMED_OUT,
    },
    "offline": {
        **dict.fromkeys(LINK, S.TRANSFERRING),
        "cancel": S.CANCELED,
        "deadline": S.TIMED_OUT,
    },
    "asked": {
        "status error": S.TRANSFERRING,
        "status silent": S.TRANSFERRING,
        **dict.fromkeys(
            (
                "idle, old",
                "receiving, 40 %",
                "receiving, 100 %",
                "error, old",
                "about to reboot",
                "new, on trial",
                "new, committed",
                "new",
                "another",
                "says nothing",
            ),
            S.TRANSFERRING,
        ),
        **dict.fromkeys(LINK, S.TRANSFERRING),
        "cancel": S.CANCELED,
        "deadline": S.TIMED_OUT,
    },
    "end sent": {
        "end ok": S.REBOOTING,
        "end error": S.FAILED,
        "end silent": S.REBOOTING,
        **dict.fromkeys(LINK, S.REBOOTING),
        "deadline": S.REBOOTING,
    },
    "before the reboot": {
        "error, old": S.FAILED,
        **dict.fromkeys(LINK, S.REBOOTING),
        "deadline": S.TIMED_OUT,
    },
    "after the reboot": {
        "idle, old": S.ROLLED_BACK,
        "receiving, 40 %": S.VERIFYING,
        "receiving, 100 %": S.VERIFYING,
        "error, old": S.FAILED,
        "about to reboot": S.REBOOTING,
        "new, on trial": S.UNCOMMITTED,
        "new, committed": S.COMMITTED,
        "new": S.REBOOTING,
        "another": S.FAILED,
        "says nothing": S.REBOOTING,
        "status error": S.REBOOTING,
        "status silent": S.REBOOTING,
        **dict.fromkeys(LINK, S.REBOOTING),
        "deadline": S.TIMED_OUT,
    },
    "on trial": {
        **dict.fromkeys(
            ("idle, old", "receiving, 40 %", "receiving, 100 %", "error, old", "about to reboot"),
            S.ROLLED_BACK,
        ),
        "new, committed": S.COMMITTED,
        "another": S.FAILED,
        "commit wanted": S.UNCOMMITTED,
        "commit ok": S.COMMITTED,
        "revert ok": S.ROLLED_BACK,
        **dict.fromkeys(LINK, S.UNCOMMITTED),
        "deadline": S.TIMED_OUT,
    },
    "on trial, reconnected": {
        **dict.fromkeys(
            ("idle, old", "receiving, 40 %", "receiving, 100 %", "error, old", "about to reboot"),
            S.ROLLED_BACK,
        ),
        "new, on trial": S.UNCOMMITTED,
        "new, committed": S.COMMITTED,
        "new": S.UNCOMMITTED,
        "says nothing": S.UNCOMMITTED,
        "another": S.FAILED,
        "status error": S.UNCOMMITTED,
        "status silent": S.UNCOMMITTED,
        "commit wanted": S.UNCOMMITTED,
        "revert ok": S.ROLLED_BACK,
        **dict.fromkeys(LINK, S.UNCOMMITTED),
        "deadline": S.TIMED_OUT,
    },
    **{end.value: {} for end in ENDS},
}


def touched(before: Update, now: Update) -> bool:
    """Whether more than a clock or a pause changed, or one of them did."""
    return before != now


class TestTheWholeWalk:
    def test_the_walk_leaves_out_no_state_and_no_kind_of_event(self) -> None:
        """Every state × every event."""
        assert {update.state for update in SITUATIONS.values()} == set(State)
        assert {type(event) for event in HAPPENINGS.values()} == set(EVENTS)
        assert set(EFFECTS) == set(SITUATIONS)

    @pytest.mark.parametrize("situation", SITUATIONS)
    @pytest.mark.parametrize("happening", HAPPENINGS)
    def test_every_event_in_every_situation(self, situation: str, happening: str) -> None:
        """It leads where it should, along an arrow of the table; what is not listed changes nothing."""
        update, event = SITUATIONS[situation], HAPPENINGS[happening]
        now = next_deadline(update) if happening == "deadline" else NOW + 1
        if happening == "deadline" and update.not_before == now:
            update = advance(update, event, now=now)
            now = next_deadline(update)
        result = advance(update, event, now=now or NOW + 1)
        arrows = TRANSITIONS.get((update.state, type(event)), ())
        assert result == update or result.state in {arrow.to for arrow in arrows}
        expected = EFFECTS[situation].get(happening)
        if expected is None:
            assert result.state is update.state
            assert next_step(result) == next_step(update)
            assert result is update or arrows[-1].quiet
        else:
            assert result.state is expected
            assert result != update
