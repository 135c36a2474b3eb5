"""Updates end, in a state that is true: the table walked as a whole, cases one by one, and laws."""

from __future__ import annotations

import base64
import json
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import every_row

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.ota import (
    MAX_CHUNK_SIZE,
    STATE_LIMITS,
    TIME_FIELDS,
    UPDATE_ENDS,
    UPDATE_TRANSITIONS,
    Ask,
    Begin,
    BeginAccepted,
    Build,
    BuildReported,
    CancelRequested,
    ChunkAccepted,
    Commit,
    CommitAccepted,
    CommitRequested,
    CommitUnsupported,
    DeviceConnected,
    DeviceDisconnected,
    End,
    EndAccepted,
    NewerUpdateQueued,
    Options,
    RevertAccepted,
    Session,
    Started,
    Status,
    StepFailed,
    StepTimedOut,
    TransferEnded,
    Update,
    UpdateDeadlinePassed,
    UpdateEvent,
    UpdateImage,
    UpdateState,
    Wait,
    Write,
    advance,
    can_cancel,
    can_supersede,
    commit_deadline,
    held_until,
    moved,
    next_deadline,
    next_step,
    time_limit,
)
from mdashcore.ota._reasons import waiting_reason

S = UpdateState
LIVE = [state for state in UpdateState if state not in UPDATE_ENDS]
EVENTS: tuple[type, ...] = get_args(UpdateEvent)

ZIP = UpdateImage(name="fw.zip", size=2500, sha256="00" * 32, build_id="new", version="2.0", platform="esp32")
BARE = UpdateImage(name="fw.bin", size=2500, sha256="00" * 32, bare=True)
OLD = Build(id="old", version="1.0", platform="esp32", partition=0, is_committed=True, status=0)
TRIAL = Build(id="new", version="2.0", partition=1, is_committed=False, status=0)
KEPT = attrs.evolve(TRIAL, is_committed=True)
NOW = 1000.0


def reported(build: Build, status: Status = Status.ANSWERED) -> BuildReported:
    """The answer to the step `Ask`."""
    return BuildReported(build, answered=True, status=status)


def plain(build: Build) -> BuildReported:
    """The same of a device that has no `OTA.Status`: it says which build it runs, and no more."""
    said = Build(id=build.id, version=build.version, platform=build.platform)
    return reported(said, Status.NO_METHOD)


def queued(image: UpdateImage = ZIP, **options: Any) -> Update:
    return Update.queued("u1", image, now=NOW, options=Options(**options))


def after(update: Update, *events: UpdateEvent, now: float = NOW) -> Update:
    for event in events:
        update = advance(update, event, now=now)
    return update


LOST_LINK = (DeviceDisconnected(), DeviceConnected())
CHUNKS = (ChunkAccepted(0, 1024), ChunkAccepted(1024, 1024), ChunkAccepted(2048, 452))


def transferring(image: UpdateImage = ZIP, **options: Any) -> Update:
    return after(queued(image, **options), Started(OLD), BeginAccepted())


def verifying(image: UpdateImage = ZIP, **options: Any) -> Update:
    return after(transferring(image, **options), *CHUNKS)


def rebooted(image: UpdateImage = ZIP, **options: Any) -> Update:
    return after(verifying(image, **options), EndAccepted(), *LOST_LINK)


def uncommitted(image: UpdateImage = ZIP, **options: Any) -> Update:
    return after(rebooted(image, **options), BuildReported(TRIAL))


def failed(method: str, message: str = "some trouble") -> StepFailed:
    return StepFailed(method, -1, message)


class TestTheTable:
    def test_every_live_state_can_be_left_and_no_end_can(self) -> None:
        """Ends are exactly the states without an arrow."""
        assert {state for state, _ in UPDATE_TRANSITIONS} == set(LIVE)

    def test_every_live_state_has_limits_and_an_arrow_for_them(self) -> None:
        """An update without any event ends by its limits."""
        assert set(STATE_LIMITS) == set(LIVE)
        assert all((state, UpdateDeadlinePassed) in UPDATE_TRANSITIONS for state in LIVE)

    def test_every_end_is_reached(self) -> None:
        """No state is there for show."""
        targets = {arrow.to for arrows in UPDATE_TRANSITIONS.values() for arrow in arrows}
        assert targets == set(UpdateState)

    def test_a_drawing_finds_words_for_every_arrow(self) -> None:
        """Only the last arrow of a cell may be without a condition, and each condition has words."""
        for arrows in UPDATE_TRANSITIONS.values():
            assert all(arrow.label for arrow in arrows[:-1])
            assert len({arrow.label for arrow in arrows}) == len(arrows)

    def test_only_what_is_queued_or_being_sent_can_be_canceled(self) -> None:
        """After OTA.End there is no way back that the service could take."""
        can = {state for state in UpdateState if can_cancel(attrs.evolve(queued(), state=state))}
        assert can == {S.QUEUED, S.TRANSFERRING}


# What the machine stands in (by name), and each event's effect. An event that is not listed changes nothing.
SITUATIONS: dict[str, Update] = {
    "queued": queued(),
    "queued, connected": after(after(queued(), DeviceConnected(), now=NOW - 3), UpdateDeadlinePassed()),
    "begin sent": after(queued(), Started(OLD)),
    "chunk sent": after(transferring(), ChunkAccepted(0, 1024)),
    "offline": after(transferring(), ChunkAccepted(0, 1024), DeviceDisconnected()),
    "asked": after(transferring(), ChunkAccepted(0, 1024), *LOST_LINK),
    "begin sent, may hold another": after(attrs.evolve(queued(), held_until=NOW + 60), Started(OLD)),
    "waits for the device": after(queued(), Started(OLD), failed("OTA.Begin", "OTA already in progress")),
    "end sent": verifying(),
    "before the reboot": after(verifying(), EndAccepted()),
    "after the reboot": rebooted(),
    "on trial": uncommitted(),
    "on trial, reconnected": after(uncommitted(), *LOST_LINK),
    "on trial, unsaid": after(rebooted(), plain(KEPT)),
    "on trial, healthy": after(uncommitted(auto_commit=True, commit_after=1), UpdateDeadlinePassed(), now=NOW + 1),
    **{end.value: attrs.evolve(queued(), state=end) for end in sorted(UPDATE_ENDS)},
}
HAPPENINGS: dict[str, UpdateEvent] = {
    "started": Started(OLD),
    "started, has it": Started(KEPT),
    "started, other platform": Started(attrs.evolve(OLD, platform="esp8266")),
    "begin ok": BeginAccepted(),
    "begin error": failed("OTA.Begin"),
    "begin silent": StepTimedOut("OTA.Begin"),
    "chunk ok": ChunkAccepted(1024, 1024),
    "other chunk ok": ChunkAccepted(0, 1024),
    "chunk error": failed("OTA.Write"),
    "chunk bad": failed("OTA.Write", "Invalid CRC"),
    "chunk: platform": failed("OTA.Write", "Wrong platform"),
    "chunk: version": failed("OTA.Write", "Version is the same as current"),
    "chunk silent": StepTimedOut("OTA.Write"),
    "end ok": EndAccepted(),
    "end error": failed("OTA.End", "Wrong state for finalize"),
    "end silent": StepTimedOut("OTA.End"),
    "status error": failed("OTA.Status", "No handler for OTA.Status"),
    "status silent": StepTimedOut("OTA.Status"),
    "commit error": failed("OTA.Commit"),
    "commit silent": StepTimedOut("OTA.Commit"),
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
    "has no status: old": plain(OLD),
    "has no status: new": plain(KEPT),
    "old": BuildReported(Build(id="old")),
    "answers: new, on trial": BuildReported(TRIAL, answered=True),
    "commit wanted": CommitRequested(),
    "commit ok": CommitAccepted(),
    "no commit": CommitUnsupported(),
    "begin: holds a transfer": failed("OTA.Begin", "Update already in progress"),
    "commit: no method": StepFailed("OTA.Commit", 404, "No handler for OTA.Commit"),
    "transfer ended": TransferEnded(),
    "revert ok": RevertAccepted(),
    "cancel": CancelRequested(),
    "newer": NewerUpdateQueued(),
    "deadline": UpdateDeadlinePassed(),
}
LINK = {"connected", "disconnected"}
EFFECTS: dict[str, dict[str, UpdateState]] = {
    "queued": {
        "started": S.TRANSFERRING,
        "started, has it": S.ALREADY_INSTALLED,
        "started, other platform": S.REJECTED,
        "cancel": S.CANCELED,
        "newer": S.SUPERSEDED,
        "deadline": S.TIMED_OUT,
        **dict.fromkeys(LINK, S.QUEUED),
    },
    "queued, connected": {
        "started": S.TRANSFERRING,
        "started, has it": S.ALREADY_INSTALLED,
        "started, other platform": S.REJECTED,
        **dict.fromkeys(
            ("idle, old", "receiving, 40 %", "receiving, 100 %", "error, old", "about to reboot", "another"),
            S.TRANSFERRING,
        ),
        **dict.fromkeys(("answers: new, on trial", "has no status: old"), S.TRANSFERRING),
        **dict.fromkeys(("new, committed", "new", "has no status: new"), S.ALREADY_INSTALLED),
        **dict.fromkeys(("status error", "status silent"), S.TRANSFERRING),
        "cancel": S.CANCELED,
        "newer": S.SUPERSEDED,
        "deadline": S.TIMED_OUT,
        **dict.fromkeys(LINK, S.QUEUED),
    },
    "begin sent": {
        "begin ok": S.TRANSFERRING,
        "begin error": S.FAILED,
        "begin silent": S.TRANSFERRING,
        "begin: holds a transfer": S.TRANSFERRING,
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
                "answers: new, on trial",
                "new, committed",
                "new",
                "another",
                "has no status: old",
                "has no status: new",
            ),
            S.TRANSFERRING,
        ),
        **dict.fromkeys(LINK, S.TRANSFERRING),
        "cancel": S.CANCELED,
        "deadline": S.TIMED_OUT,
    },
    "begin sent, may hold another": {
        "begin ok": S.TRANSFERRING,
        "begin error": S.FAILED,
        "begin silent": S.TRANSFERRING,
        "begin: holds a transfer": S.TRANSFERRING,
        **dict.fromkeys(LINK, S.TRANSFERRING),
        "cancel": S.CANCELED,
        "deadline": S.TIMED_OUT,
    },
    "waits for the device": {
        "newer": S.SUPERSEDED,
        "transfer ended": S.TRANSFERRING,
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
        **dict.fromkeys(("has no status: old", "has no status: new", "answers: new, on trial"), S.REBOOTING),
        **dict.fromkeys(LINK, S.REBOOTING),
        "deadline": S.TIMED_OUT,
    },
    "after the reboot": {
        "idle, old": S.ROLLED_BACK,
        "receiving, 40 %": S.VERIFYING,
        "receiving, 100 %": S.VERIFYING,
        "error, old": S.FAILED,
        "new, on trial": S.UNCOMMITTED,
        "answers: new, on trial": S.UNCOMMITTED,
        "new, committed": S.COMMITTED,
        "another": S.FAILED,
        "has no status: new": S.UNCOMMITTED,
        "has no status: old": S.REBOOTING,
        "commit ok": S.REBOOTING,
        "no commit": S.REBOOTING,
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
        **dict.fromkeys(("old", "has no status: old"), S.ROLLED_BACK),
        "new, committed": S.COMMITTED,
        "another": S.FAILED,
        "commit wanted": S.UNCOMMITTED,
        "commit ok": S.COMMITTED,
        "revert ok": S.ROLLED_BACK,
        **dict.fromkeys(LINK, S.UNCOMMITTED),
        "deadline": S.TIMED_OUT,
    },
    "on trial, unsaid": {
        **dict.fromkeys(
            ("idle, old", "receiving, 40 %", "receiving, 100 %", "error, old", "about to reboot"),
            S.ROLLED_BACK,
        ),
        **dict.fromkeys(("old", "has no status: old"), S.ROLLED_BACK),
        "new, on trial": S.UNCOMMITTED,
        "answers: new, on trial": S.UNCOMMITTED,
        "new, committed": S.COMMITTED,
        "another": S.FAILED,
        "commit wanted": S.UNCOMMITTED,
        "commit ok": S.COMMITTED,
        "no commit": S.COMMITTED,
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
        "answers: new, on trial": S.UNCOMMITTED,
        **dict.fromkeys(("old", "has no status: old"), S.ROLLED_BACK),
        "new, committed": S.COMMITTED,
        "has no status: new": S.UNCOMMITTED,
        "another": S.FAILED,
        "status error": S.UNCOMMITTED,
        "status silent": S.UNCOMMITTED,
        "commit wanted": S.UNCOMMITTED,
        "revert ok": S.ROLLED_BACK,
        **dict.fromkeys(LINK, S.UNCOMMITTED),
        "deadline": S.TIMED_OUT,
    },
    "on trial, healthy": {
        **dict.fromkeys(
            ("idle, old", "receiving, 40 %", "receiving, 100 %", "error, old", "about to reboot"),
            S.ROLLED_BACK,
        ),
        **dict.fromkeys(("new, on trial", "answers: new, on trial", "has no status: new"), S.UNCOMMITTED),
        **dict.fromkeys(("old", "has no status: old"), S.ROLLED_BACK),
        "new, committed": S.COMMITTED,
        "another": S.FAILED,
        "status error": S.UNCOMMITTED,
        "status silent": S.UNCOMMITTED,
        "commit wanted": S.UNCOMMITTED,
        "commit ok": S.COMMITTED,
        "revert ok": S.ROLLED_BACK,
        **dict.fromkeys(LINK, S.UNCOMMITTED),
        "deadline": S.TIMED_OUT,
    },
    **{end.value: {} for end in UPDATE_ENDS},
}


class TestTheWholeWalk:
    def test_the_walk_leaves_out_no_state_and_no_kind_of_event(self) -> None:
        """Every state × every event."""
        assert {update.state for update in SITUATIONS.values()} == set(UpdateState)
        assert {type(event) for event in HAPPENINGS.values()} == set(EVENTS)
        assert set(EFFECTS) == set(SITUATIONS)

    @every_row("situation", SITUATIONS)
    @every_row("happening", HAPPENINGS)
    def test_every_event_in_every_situation(self, situation: str, happening: str) -> None:
        """It leads where it should, along an arrow of the table; what is not listed changes nothing."""
        update, event = SITUATIONS[situation], HAPPENINGS[happening]
        now = (next_deadline(update) or NOW + 1) if happening == "deadline" else NOW + 1
        if happening == "deadline" and update.not_before == now:
            update = advance(update, event, now=now)
            now = next_deadline(update)
        result = advance(update, event, now=now or NOW + 1)
        arrows = UPDATE_TRANSITIONS.get((update.state, type(event)), ())
        assert result == update or result.state in {arrow.to for arrow in arrows}
        expected = EFFECTS[situation].get(happening)
        if expected is None:
            assert result is update
        else:
            assert result.state is expected
            assert result != update


class TestBeforeTheFirstByte:
    def test_a_build_that_runs_already_is_not_sent(self) -> None:
        """Unless it is only on trial, or asked for with force."""
        assert after(queued(), Started(KEPT)).state is S.ALREADY_INSTALLED
        assert "new" in after(queued(), Started(KEPT)).reason
        assert after(queued(), Started(TRIAL)).state is S.TRANSFERRING
        assert after(queued(force=True), Started(KEPT)).state is S.TRANSFERRING
        assert after(queued(BARE), Started(KEPT)).state is S.TRANSFERRING

    def test_an_image_for_another_platform_is_not_sent(self) -> None:
        """Case does not matter; a device that does not say its platform gets the image."""
        other = attrs.evolve(OLD, platform="stm32")
        update = after(queued(), Started(other))
        assert update.state is S.REJECTED
        assert update.reason == "the image is for esp32, the device is stm32"
        assert after(queued(force=True), Started(other)).state is S.TRANSFERRING
        for platform in ("ESP32", None):
            assert after(queued(), Started(attrs.evolve(OLD, platform=platform))).state is S.TRANSFERRING
        assert after(queued(), Started(None)).state is S.TRANSFERRING

    def test_an_image_of_another_application_is_not_sent(self) -> None:
        """Unless with force; a device that does not say what it is gets the image."""
        image, runs = attrs.evolve(ZIP, app="lamp"), attrs.evolve(OLD, app="heater")
        update = after(queued(image), Started(runs))
        assert update.state is S.REJECTED
        assert update.reason == "the image is of the application lamp, the device runs heater"
        assert after(queued(image), DeviceConnected(), BuildReported(runs)).state is S.REJECTED
        assert after(queued(image, force=True), Started(runs)).state is S.TRANSFERRING
        for other in (attrs.evolve(OLD, app="lamp"), OLD):
            assert after(queued(image), Started(other)).state is S.TRANSFERRING
        assert after(queued(), Started(runs)).state is S.TRANSFERRING

    @pytest.mark.parametrize("image", [attrs.evolve(ZIP, app="lamp"), ZIP, attrs.evolve(ZIP, build_id=None), BARE])
    @pytest.mark.parametrize("missing", ["id", "platform", "app"])
    def test_a_report_that_leaves_out_what_is_compared_is_not_enough(self, missing: str, image: UpdateImage) -> None:
        """The device is asked then, before anything is decided; what the image does not name need not be said."""
        told = Build(id="old", version="1.0", platform="esp32", app="lamp")
        update = after(queued(image), DeviceConnected())
        partial = after(update, BuildReported(attrs.evolve(told, **{missing: None})))
        needed = {"id": image.build_id, "platform": image.platform, "app": image.app}[missing] is not None
        assert partial.state is (S.QUEUED if needed else S.TRANSFERRING)
        assert after(update, BuildReported(told)).state is S.TRANSFERRING
        silent = reported(attrs.evolve(told, **{missing: None}), Status.NO_METHOD)
        assert after(update, silent).state is S.TRANSFERRING

    def test_a_device_that_comes_and_goes_does_not_start_anything(self) -> None:
        """Whose turn it is, is not the machine's decision; it is asked what it runs when it has not said so in time."""
        update = after(queued(), *LOST_LINK)
        assert next_step(update) == Wait(NOW + 3)
        assert next_step(after(update, UpdateDeadlinePassed(), now=NOW + 3)) == Ask()


class TestTransfer:
    def test_the_calls_of_a_good_transfer(self) -> None:
        """Begin, every chunk once and in order, End; the parameters as devices want them."""
        update, calls = after(queued(commit_timeout=60), Started(OLD)), []
        while update.state in (S.TRANSFERRING, S.VERIFYING):
            step = next_step(update)
            match step:
                case Begin():
                    calls.append((step.method, step.params()))
                    event: UpdateEvent = BeginAccepted()
                case Write(offset, size):
                    calls.append((step.method, step.params(b"x" * size)))
                    event = ChunkAccepted(offset, size)
                case _:
                    assert isinstance(step, End)
                    calls.append((step.method, {}))
                    event = EndAccepted()
            update = advance(update, event, now=NOW)
        assert calls == [
            ("OTA.Begin", {"size": 2500, "timeout": 600, "commit_timeout": 60}),
            *(
                ("OTA.Write", {"offset": offset, "data": base64.b64encode(b"x" * size).decode()})
                for offset, size in ((0, 1024), (1024, 1024), (2048, 452))
            ),
            ("OTA.End", {}),
        ]
        assert (update.state, update.offset, update.progress_percent) == (S.REBOOTING, 2500, 100)

    def test_the_largest_chunk_fits_a_devices_frame(self) -> None:
        """4096 bytes, with the longest id and offset there can be."""
        write = Write(2**32, MAX_CHUNK_SIZE)
        frame = {
            "jsonrpc": "2.0",
            "id": 2**53,
            "method": write.method,
            "params": write.params(b"x" * write.size),
        }
        assert len(_json.encode(frame)) < 4096

    def test_a_chunk_is_tried_three_times(self) -> None:
        """As `mos` does; the third failure ends it, in the device's own words."""
        update = transferring()
        for _ in range(2):
            update = after(update, failed("OTA.Write", "flash is busy"))
            assert next_step(update) == Write(0, 1024)
        update = after(update, failed("OTA.Write", "flash is busy"))
        assert (update.state, update.reason) == (S.FAILED, "OTA.Write: flash is busy (code -1)")

    def test_a_chunk_that_gets_through_clears_the_count(self) -> None:
        """Failures count in a row."""
        update = transferring()
        for chunk in CHUNKS:
            update = after(update, failed("OTA.Write"), failed("OTA.Write"), chunk)
        assert update.state is S.VERIFYING

    def test_an_error_that_closes_the_transfer_is_not_repeated(self) -> None:
        """The same chunk again would only bring other words."""
        update = after(transferring(), failed("OTA.Write", "Malformed archive (invalid file header)"))
        assert update.state is S.FAILED
        assert "Malformed archive (invalid file header)" in update.reason

    def test_a_device_on_trial_takes_no_update(self) -> None:
        """It says so, and that ends it: whether the build before is kept, a person decides."""
        words = "Previous update has not been committed yet"
        update = after(queued(), Started(OLD), failed("OTA.Begin", words))
        assert (update.state, update.reason) == (S.FAILED, f"OTA.Begin: {words} (code -1)")

    def test_a_silent_device_is_tried_again_and_then_given_up(self) -> None:
        """Three tries in each of three transfers; it ends TIMED_OUT, because the device never refused."""
        update, calls = after(queued(), Started(OLD)), 0
        while not update.ended:
            step = next_step(update)
            if isinstance(step, Begin):
                update = after(update, BeginAccepted())
            else:
                assert isinstance(step, Write)
                calls += 1
                update = after(update, StepTimedOut("OTA.Write"))
        assert (update.state, calls, update.attempt) == (S.TIMED_OUT, 9, 3)

    def test_an_error_after_a_doubtful_chunk_begins_the_transfer_again(self) -> None:
        """Old firmware appends a repeated chunk; then its digests do not fit, and the image is not to blame."""
        update = after(transferring(), StepTimedOut("OTA.Write"), *CHUNKS, failed("OTA.End", "Invalid CRC"))
        assert (update.state, update.attempt, update.offset) == (S.TRANSFERRING, 2, 0)
        assert isinstance(next_step(update), Begin)
        assert after(verifying(), failed("OTA.End", "Invalid CRC")).state is S.FAILED

    def test_a_bare_image_is_never_continued_in_doubt(self) -> None:
        """No digest would notice a chunk taken twice: after a lost answer the transfer begins again."""
        update = after(transferring(BARE), ChunkAccepted(0, 1024), StepTimedOut("OTA.Write"))
        assert (update.offset, update.attempt) == (0, 2)
        assert isinstance(next_step(update), Begin)

    def test_late_answers_change_nothing(self) -> None:
        """The answer to a call that was given up is ignored."""
        update = transferring()
        for late in (BeginAccepted(), EndAccepted(), failed("OTA.Begin"), StepTimedOut("OTA.End")):
            assert after(update, late) is update
        for late in (ChunkAccepted(1024, 1024), ChunkAccepted(0, 1)):
            assert after(update, late) is update

    def test_more_than_one_chunk_can_be_on_its_way(self) -> None:
        """The performer asks with the bytes in flight until it is told to wait."""
        update = transferring(chunks_in_flight=2)
        assert next_step(update) == Write(0, 1024)
        assert next_step(update, in_flight=1024) == Write(1024, 1024)
        assert next_step(update, in_flight=2048) == Wait()
        update = after(update, CHUNKS[0], CHUNKS[1])
        assert next_step(update, in_flight=452) == Wait()


BUSY = failed("OTA.Begin", "OTA already in progress")


class TestTheTransferBefore:
    def test_it_is_waited_for_and_tried_in_between(self) -> None:
        """There is no call to give a transfer up: the device forgets it after its time-out, at the latest."""
        update = after(queued(), Started(OLD), BUSY)
        assert (update.state, update.waits_until, update.attempt) == (S.TRANSFERRING, NOW + 610, 1)
        assert update.reason == "waits until the device has forgotten the transfer before, at the latest 00:26 UTC"
        now = NOW
        while now < NOW + 580:
            assert next_deadline(update) == now + 30
            now += 30
            update = after(update, UpdateDeadlinePassed(), now=now)
            assert isinstance(next_step(update), Begin)
            update = after(update, BUSY, now=now)
        update = after(update, UpdateDeadlinePassed(), now=now + 30)
        update = after(update, BeginAccepted(), now=now + 30)
        assert (next_step(update), update.waits_until, update.reason) == (Write(0, 1024), None, "")

    def test_as_long_as_it_was_told(self) -> None:
        """The update before has said how long; from its end on, as it may have sent a chunk until then."""
        before = after(transferring(timeout=3600), CHUNKS[0], CancelRequested(), now=NOW + 5)
        assert held_until(before) == NOW + 3605
        update = Update.queued("u2", ZIP, now=NOW + 100, held_until=held_until(before))
        update = after(update, Started(OLD), BUSY, now=NOW + 100)
        assert update.waits_until == NOW + 3615

    @pytest.mark.parametrize(
        ("update", "until"),
        [
            (queued(), None),
            (after(queued(), CancelRequested()), None),
            (uncommitted(), None),
            (after(uncommitted(), CommitAccepted()), None),
            (after(uncommitted(), *LOST_LINK, BuildReported(OLD)), None),
            (after(queued(), Started(OLD), failed("OTA.Begin")), None),
            (after(transferring(), failed("OTA.Write", "Malformed archive")), NOW + 600),
            (after(transferring(), DeviceDisconnected(), CancelRequested()), NOW + 600),
            (after(queued(), Started(OLD), BUSY, NewerUpdateQueued()), NOW + 610),
            (after(queued(), Started(OLD), CancelRequested()), NOW + 600),
            (after(queued(max_attempts=1), Started(OLD), StepTimedOut("OTA.Begin")), NOW + 600),
            (after(after(queued(), Started(OLD)), UpdateDeadlinePassed(), now=NOW + 900), NOW + 1500),
        ],
    )
    def test_what_an_update_leaves_behind(self, update: Update, until: float | None) -> None:
        """A transfer that was begun and not ended; one that it waited for itself."""
        assert held_until(update) == until

    @pytest.mark.parametrize("waits", [False, True])
    @pytest.mark.parametrize("image", [ZIP, BARE])
    @pytest.mark.parametrize("lost", [LOST_LINK, (DeviceConnected(),), (StepTimedOut("OTA.Begin"),)])
    def test_begin_without_an_answer(self, lost: tuple[UpdateEvent, ...], image: UpdateImage, waits: bool) -> None:
        """What the device holds then may be either transfer, and nothing that it says tells which: OTA.Begin is tried
        again, as long as either may be held. That costs no attempt.
        """
        update = after(Update.queued("u2", image, now=NOW, held_until=NOW + 500), Started(OLD))
        if waits:
            update = after(after(update, BUSY), UpdateDeadlinePassed(), now=NOW + 30)
        now = NOW + 40
        update = after(update, *lost, now=now)
        for build in (attrs.evolve(OLD, status=1), attrs.evolve(OLD, status=1, progress_percent=0)):
            assert after(update, reported(build), plain(build), now=now) is update
        assert (update.waits_until, update.attempt) == (now + 610, 1)
        while now < NOW + 640:
            assert update.session is Session.NONE
            if isinstance(next_step(update), Begin):
                update = after(update, BUSY, now=now)
            now = next_deadline(update) or now
            update = after(update, UpdateDeadlinePassed(), now=now)
        begun = after(update, BeginAccepted(), now=now)
        assert (next_step(begun), begun.waits_until, begun.attempt) == (Write(0, 1024), None, 1)
        assert after(update, BUSY, now=NOW + 650).state is S.FAILED

    def test_a_device_that_fails_at_each_begin(self) -> None:
        """After ten in a row its failures prolong the wait no more; after three time-outs it is given up. An answer
        begins the count anew.
        """
        update = after(Update.queued("u2", ZIP, now=NOW, held_until=NOW + 500), Started(OLD))
        for number in range(1, 15):
            update = after(update, *LOST_LINK, now=NOW + number)
        assert (update.waits_until, update.attempt) == (NOW + 620, 1)
        update = after(update, BUSY, DeviceDisconnected(), DeviceConnected(), *LOST_LINK, now=NOW + 50)
        assert update.waits_until == NOW + 660
        silent = after(Update.queued("u2", ZIP, now=NOW, held_until=NOW + 500), Started(OLD))
        for number in range(3):
            silent = after(silent, StepTimedOut("OTA.Begin"), now=NOW + 90 * number + 60)
            silent = after(silent, UpdateDeadlinePassed(), now=NOW + 90 * number + 90)
        assert silent.state is S.TIMED_OUT

    def test_also_after_the_time_in_which_it_should_have_forgotten(self) -> None:
        """Some devices never forget: a transfer that is open then may still be the earlier one."""
        update = after(Update.queued("u2", ZIP, now=NOW, held_until=NOW + 500), Started(OLD))
        update = after(update, StepTimedOut("OTA.Begin"), now=NOW + 511)
        assert after(update, reported(attrs.evolve(OLD, status=1)), now=NOW + 511) is update
        assert (next_step(update), update.waits_until) == (Wait(NOW + 541), NOW + 1121)

    def test_a_device_that_never_forgets(self) -> None:
        """The end says what helps."""
        update = after(queued(), Started(OLD), BUSY)
        update = after(update, UpdateDeadlinePassed(), BUSY, now=NOW + 610)
        assert update.state is S.FAILED
        assert "end it, or restart the device" in update.reason

    def test_a_restart_or_an_end_is_tried_out_immediately(self) -> None:
        """Either way the device may have forgotten."""
        update = after(queued(), Started(OLD), BUSY, DeviceDisconnected())
        assert next_step(update) == Wait()
        update = after(update, DeviceConnected(), now=NOW + 60)
        assert (isinstance(next_step(update), Begin), update.waits_until) == (True, NOW + 610)
        update = after(update, BUSY, TransferEnded(), now=NOW + 60)
        assert next_step(update) == Wait(NOW + 62)

    def test_while_it_waits_a_newer_one_takes_its_place(self) -> None:
        """Nothing was sent; and it can be canceled."""
        update = after(queued(), Started(OLD), BUSY)
        assert after(update, NewerUpdateQueued()).state is S.SUPERSEDED
        assert can_supersede(update)
        assert can_supersede(queued())
        assert can_supersede(after(queued(), CancelRequested()))
        assert not can_supersede(transferring())
        assert after(update, CancelRequested()).state is S.CANCELED

    def test_our_own_is_waited_for_too(self) -> None:
        """After a lost link, when the device says that it has none, and refuses another all the same."""
        update = after(transferring(), *LOST_LINK, BuildReported(OLD), BUSY)
        assert (update.attempt, update.waits_until) == (2, NOW + 610)

    def test_a_long_wait_is_no_idleness(self) -> None:
        """The idle limit counts from its end."""
        update = Update.queued("u2", ZIP, now=NOW, held_until=NOW + 80_000)
        update, now = after(update, Started(OLD), BUSY), NOW
        while (due := next_deadline(update) or 0.0) < NOW + 80_010:
            now = due
            update = after(update, UpdateDeadlinePassed(), BUSY, now=now)
            assert not update.ended
        assert after(update, UpdateDeadlinePassed(), BeginAccepted(), now=NOW + 80_010).session is Session.OPEN


class TestADeviceThatSaysLess:
    def test_a_build_is_not_a_word_of_the_transfer(self) -> None:
        """A heartbeat, or a report without `status`, on a new link: it is asked."""
        update = after(transferring(), CHUNKS[0], *LOST_LINK)
        for build in (Build(id="old", version="1.0", platform="esp32"), Build()):
            assert after(update, BuildReported(build)) is update
        assert next_step(update) == Ask()

    def test_one_that_cannot_say_is_told_to_begin(self) -> None:
        """If it refuses, as it holds a transfer, that goes on; a chunk may have been taken, so in doubt."""
        update = after(transferring(), CHUNKS[0], *LOST_LINK, plain(OLD))
        assert isinstance(next_step(update), Begin)
        on = after(update, failed("OTA.Begin", "Update already in progress"))
        assert (next_step(on), on.doubtful, on.attempt) == (Write(1024, 1024), True, 1)
        again = after(update, BeginAccepted())
        assert (next_step(again), again.doubtful, again.attempt) == (Write(0, 1024), False, 2)
        bare = after(transferring(BARE), CHUNKS[0], *LOST_LINK, plain(OLD), BUSY)
        assert bare.waits_until == NOW + 610

    def test_one_that_cannot_say_loses_its_transfers_three_times(self) -> None:
        """Then it has failed."""
        update = transferring()
        for attempt in (2, 3):
            update = after(update, *LOST_LINK, plain(OLD), BeginAccepted())
            assert update.attempt == attempt
        assert after(update, *LOST_LINK, plain(OLD), BeginAccepted()).state is S.FAILED

    def test_a_status_that_fails_is_asked_for_three_times(self) -> None:
        """It may have been a bad moment; or the device answers nothing that it does not know."""
        update, silent = after(transferring(), CHUNKS[0], *LOST_LINK), reported(Build(id="old"), Status.FAILED)
        for _ in range(2):
            update = after(update, silent)
            assert isinstance(next_step(update), Wait)
            update = after(update, UpdateDeadlinePassed(), now=next_deadline(update) or 0.0)
        assert isinstance(next_step(after(update, silent)), Begin)

    def test_the_new_build_runs_and_it_cannot_say_whether_it_is_committed(self) -> None:
        """UNCOMMITTED, which says so; OTA.Commit counts."""
        update = after(rebooted(), plain(KEPT))
        assert (update.state, update.commit_unknown) == (S.UNCOMMITTED, True)
        assert update.reason.startswith("whether it is committed is not known")
        assert after(update, CommitAccepted()).state is S.COMMITTED
        assert after(update, *LOST_LINK, plain(OLD)).state is S.ROLLED_BACK

    def test_told_to_commit_itself_it_has(self) -> None:
        """`commit_timeout` 0."""
        assert after(rebooted(commit_timeout=0), plain(KEPT)).state is S.COMMITTED

    def test_still_there_after_its_commit_time_out(self) -> None:
        """By hand: then it stays, however often it reconnects; before, nothing is known."""
        update, now = after(rebooted(), plain(KEPT)), NOW
        while update.state is S.UNCOMMITTED:
            now = next_deadline(update) or 0.0
            update = after(update, *LOST_LINK, plain(KEPT), now=now)
        assert (update.state, now) == (S.COMMITTED, NOW + 330)
        assert "after the commit time-out" in update.reason

    def test_a_health_check_and_then_a_commit(self) -> None:
        """`auto`: OTA.Commit after it; a device without that method has no trial."""
        update = after(rebooted(auto_commit=True, commit_after=60), plain(KEPT))
        for due in (30, 60):
            assert next_step(update) != Commit()
            update = after(update, UpdateDeadlinePassed(), plain(KEPT), now=NOW + due)
        assert next_step(update) == Commit()
        assert after(update, CommitAccepted()).state is S.COMMITTED
        for error in (StepFailed("OTA.Commit", 404, "x"), StepFailed("OTA.Commit", 500, "No handler for OTA.Commit")):
            end = after(update, error)
            assert (end.state, "no OTA.Commit" in end.reason) == (S.COMMITTED, True)
        assert after(update, failed("OTA.Commit", "Already committed")).state is S.COMMITTED
        unsure = after(update, failed("OTA.Commit", "flash is worn out"))
        assert (unsure.state, next_step(unsure)) == (S.UNCOMMITTED, Ask())

    def test_a_refused_commit_of_one_that_is_on_trial_is_no_commit(self) -> None:
        """It said that it is."""
        update = after(uncommitted(), CommitRequested(), StepFailed("OTA.Commit", 404, "No handler"))
        assert update.state is S.UNCOMMITTED
        assert after(uncommitted(), CommitUnsupported()).state is S.UNCOMMITTED

    def test_a_person_commits_before_it_is_seen(self) -> None:
        """On the link after the reboot: then the build that it reports is committed."""
        for event in (CommitAccepted(), CommitUnsupported()):
            assert after(rebooted(), event, plain(KEPT)).state is S.COMMITTED
        assert after(verifying(), EndAccepted(), CommitAccepted(), *LOST_LINK, plain(KEPT)).state is S.UNCOMMITTED

    def test_a_person_commits_on_a_new_link(self) -> None:
        """The next report of the build says whether it was this one."""
        update = after(rebooted(), plain(KEPT), *LOST_LINK, CommitAccepted())
        assert update.state is S.UNCOMMITTED
        assert after(update, plain(KEPT)).state is S.COMMITTED
        assert after(update, plain(OLD)).state is S.ROLLED_BACK

    def test_it_learns_to_say_more(self) -> None:
        """A word of the trial counts from when it is said."""
        update = after(rebooted(), plain(KEPT), reported(TRIAL))
        assert (update.state, update.commit_unknown, update.reason) == (S.UNCOMMITTED, False, "")
        assert after(update, reported(KEPT)).state is S.COMMITTED

    def test_the_old_build_on_a_new_link(self) -> None:
        """It is not the end: the device is asked, and if it cannot say more it gets ten seconds to reboot."""
        assert after(rebooted(), BuildReported(Build(id="old"))) == rebooted()
        update = after(rebooted(), plain(OLD))
        assert next_step(update) == Wait(NOW + 10)
        assert after(update, *LOST_LINK, plain(KEPT)).state is S.UNCOMMITTED
        update = after(update, UpdateDeadlinePassed(), plain(OLD), now=NOW + 10)
        assert update.state is S.ROLLED_BACK

    def test_end_is_sent_again_where_it_may_not_have_been_taken(self) -> None:
        """It cannot say; if it holds nothing it refuses."""
        update = after(verifying(), *LOST_LINK, plain(OLD))
        assert (update.state, next_step(update)) == (S.VERIFYING, End())
        assert after(update, EndAccepted(), *LOST_LINK, plain(KEPT)).state is S.UNCOMMITTED
        assert after(update, failed("OTA.End", "Wrong state for finalize")).state is S.FAILED

    def test_one_that_says_nothing_at_all(self) -> None:
        """Asked forty times while it comes and goes, it is given up; its reconnects prolong nothing."""
        update, asked, now = rebooted(), 0, NOW
        while not update.ended:
            step = next_step(update)
            if isinstance(step, Ask):
                asked, update = asked + 1, after(update, StepFailed("OTA.Status", 404, "no"), *LOST_LINK, now=now)
            now += 1
        assert (update.state, asked) == (S.TIMED_OUT, 41)


class TestALinkThatDrops:
    def test_the_transfer_goes_on_where_the_device_is(self) -> None:
        """The percentage tells whether the chunk whose answer was lost has arrived."""
        lost = after(transferring(), ChunkAccepted(0, 1024), *LOST_LINK)
        assert isinstance(next_step(lost), Ask)
        for percent, offset in ((40, 1024), (81, 2048)):
            build = attrs.evolve(OLD, status=1, progress_percent=percent)
            update = after(lost, BuildReported(build))
            assert next_step(update) == Write(offset, min(1024, 2500 - offset))
            assert (update.attempt, update.doubtful) == (1, False)

    def test_a_device_that_has_it_all_is_told_so(self) -> None:
        """Only the answer to the last chunk was lost."""
        lost = after(transferring(), *CHUNKS[:2], *LOST_LINK)
        update = after(lost, BuildReported(attrs.evolve(OLD, status=1, progress_percent=100)))
        assert isinstance(next_step(update), End)

    def test_in_doubt_a_zip_goes_on_and_a_bare_image_begins_again(self) -> None:
        """A device that gives no percentage."""
        build = attrs.evolve(OLD, status=1)
        for image, step, attempt in ((ZIP, Write, 1), (BARE, Begin, 2)):
            update = after(transferring(image), ChunkAccepted(0, 1024), *LOST_LINK, BuildReported(build))
            assert isinstance(next_step(update), step)
            assert update.attempt == attempt

    def test_a_transfer_that_went_on_in_doubt_may_begin_again_for_an_error(self) -> None:
        """The doubt is kept through a later, certain answer, and ends with the transfer."""
        unsure = BuildReported(attrs.evolve(OLD, status=1))
        sure = BuildReported(attrs.evolve(OLD, status=1, progress_percent=40))
        update = after(transferring(), CHUNKS[0], *LOST_LINK, unsure, *LOST_LINK, sure)
        assert update.doubtful
        update = after(update, failed("OTA.Write", "Invalid CRC"))
        assert (update.state, update.attempt, update.doubtful) == (S.TRANSFERRING, 2, False)
        update = after(transferring(), CHUNKS[0], *LOST_LINK, sure, failed("OTA.Write", "Invalid CRC"))
        assert update.state is S.FAILED

    def test_a_device_that_lost_the_transfer_gets_it_again(self) -> None:
        """A power cut: at most three transfers, and then it says how far it came."""
        update = transferring()
        for attempt in (2, 3):
            update = after(update, CHUNKS[0], *LOST_LINK, BuildReported(OLD))
            assert (update.attempt, next_step(update)) == (attempt, Begin(2500, 600, 300))
            update = after(update, BeginAccepted())
        update = after(update, *LOST_LINK, BuildReported(OLD))
        assert (update.state, update.reason) == (
            S.FAILED,
            "the device dropped out, and does not hold the transfer any more",
        )

    def test_a_device_that_is_away_is_waited_for(self) -> None:
        """Nothing is called without a link; the reason says where it stopped."""
        update = after(transferring(), CHUNKS[0], DeviceDisconnected())
        assert next_step(update) == Wait()
        assert update.reason == "the device dropped out at 40 % of transfer 1 of 3"
        assert next_deadline(update) == NOW + 900

    def test_a_new_link_without_a_goodbye_counts_as_a_lost_one(self) -> None:
        """The newest connection wins; the old one's end may never be told."""
        update = after(transferring(), CHUNKS[0], DeviceConnected())
        assert isinstance(next_step(update), Ask)

    @pytest.mark.parametrize("lost", [LOST_LINK, (DeviceConnected(),), (StepTimedOut("OTA.Begin"),)])
    def test_a_device_is_asked_whether_it_took_begin(self, lost: tuple[UpdateEvent, ...]) -> None:
        """Its answer was lost: if it holds a transfer without a byte in it, that goes on, and costs no attempt. It
        would refuse another OTA.Begin until its time-out."""
        update = after(queued(), Started(OLD), *lost)
        assert (next_step(update), update.attempt) == (Ask(), 1)
        for percent in (0, None):
            open_ = BuildReported(attrs.evolve(OLD, status=1, progress_percent=percent))
            assert next_step(after(update, open_)) == Write(0, 1024)
        assert after(update, open_, now=NOW + 5).begun == NOW + 5

    def test_begin_without_an_answer_that_was_not_taken_costs_an_attempt(self) -> None:
        """The device has no transfer, or another's: it is begun again, as often as there are attempts."""
        anothers = attrs.evolve(OLD, status=1, progress_percent=40)
        update = after(queued(), Started(OLD))
        for attempt in (2, 3):
            for build in (OLD, anothers):
                asked = after(update, *LOST_LINK, BuildReported(build))
                assert (asked.attempt, next_step(asked)) == (attempt, Begin(2500, 600, 300))
            update = after(update, *LOST_LINK, BuildReported(OLD))
        assert after(update, *LOST_LINK, BuildReported(OLD)).state is S.FAILED
        assert after(update, StepTimedOut("OTA.Begin")).state is S.TIMED_OUT

    def test_a_bare_image_does_not_go_on_in_a_transfer_that_may_be_another_s(self) -> None:
        """It has no digest, so OTA.Begin has to be answered."""
        update = after(queued(BARE), Started(OLD), *LOST_LINK)
        update = after(update, BuildReported(attrs.evolve(OLD, status=1, progress_percent=0)))
        assert (update.attempt, next_step(update)) == (2, Begin(2500, 600, 300))

    def test_a_lost_answer_to_end_is_decided_by_the_build(self) -> None:
        """It may have rebooted, or not have heard."""
        update = after(verifying(), *LOST_LINK)
        assert update.state is S.REBOOTING
        assert after(update, BuildReported(TRIAL)).state is S.UNCOMMITTED
        rolled_back = after(update, BuildReported(OLD))
        assert rolled_back.state is S.ROLLED_BACK
        assert "it is not known whether the device took OTA.End" in rolled_back.reason

    def test_end_is_sent_again_to_a_device_that_did_not_hear_it(self) -> None:
        """It came back without a reboot, with the whole image: as often as there are attempts."""
        holding = BuildReported(attrs.evolve(OLD, status=1, progress_percent=100))
        update = verifying()
        for attempt in (2, 3):
            update = after(update, *LOST_LINK, holding)
            assert (update.state, update.attempt, next_step(update)) == (S.VERIFYING, attempt, End())
        assert after(update, *LOST_LINK, holding).state is S.REBOOTING
        paused = after(verifying(), *LOST_LINK, BuildReported(Build()), holding)
        assert next_step(paused) == End()


class TestAfterTheReboot:
    def test_the_old_link_says_nothing_about_the_reboot(self) -> None:
        """A device reports for half a second more after OTA.End; that it still runs the old build is no news."""
        update = after(verifying(), EndAccepted())
        for build in (OLD, attrs.evolve(OLD, status=3), KEPT, TRIAL):
            assert after(update, BuildReported(build)).state is S.REBOOTING

    def test_a_link_that_flickers_before_the_reboot_decides_nothing(self) -> None:
        """`status` 3: about to reboot."""
        update = after(rebooted(), BuildReported(attrs.evolve(OLD, status=3)))
        assert update.state is S.REBOOTING
        assert after(update, *LOST_LINK, BuildReported(TRIAL)).state is S.UNCOMMITTED

    def test_an_old_error_is_not_held_against_a_build_that_runs(self) -> None:
        """`status` 2 may be from an update before."""
        assert after(rebooted(), BuildReported(attrs.evolve(KEPT, status=2))).state is S.COMMITTED

    def test_a_device_that_says_too_little_is_asked_again_later(self) -> None:
        """Every 30 seconds, and not for ever."""
        update, now, asked = rebooted(), NOW, 0
        while not update.ended:
            if isinstance(next_step(update), Ask):
                asked += 1
                event: UpdateEvent = reported(Build()) if asked % 2 else StepTimedOut("OTA.Status")
            else:
                now, event = next_deadline(update) or now, UpdateDeadlinePassed()
            update = advance(update, event, now=now)
        assert (update.state, asked, now) == (S.TIMED_OUT, 31, NOW + 900)
        assert "did not say in time what it runs" in update.reason

    def test_new_build_but_no_word_of_commit_is_not_committed(self) -> None:
        """It is never said without the device having said so."""
        update = after(rebooted(), BuildReported(Build(id="new")))
        assert update.state is S.REBOOTING

    def test_versions_decide_where_there_is_no_build_id(self) -> None:
        """`fw_version` alone, as simple devices send it."""
        assert after(rebooted(), BuildReported(Build(version="2.0", is_committed=True))).state is S.COMMITTED
        assert after(rebooted(), BuildReported(Build(version="1.0", status=0))).state is S.ROLLED_BACK

    def test_on_trial_until_committed(self) -> None:
        """UNCOMMITTED shows until when; OTA.Commit by any caller, or the device's report of it, commits."""
        update = uncommitted()
        assert commit_deadline(update) == NOW + 300
        assert commit_deadline(rebooted()) is None
        assert commit_deadline(uncommitted(commit_timeout=0)) is None
        later = after(rebooted(), BuildReported(TRIAL), now=NOW + 500)
        assert (commit_deadline(later), next_deadline(later)) == (NOW + 800, NOW + 530)
        assert after(update, CommitAccepted()).state is S.COMMITTED
        assert after(update, BuildReported(KEPT)).state is S.COMMITTED

    def test_a_wanted_commit_is_called_once_and_then_asked_about(self) -> None:
        """An error may mean that it is committed already."""
        update = after(uncommitted(), CommitRequested())
        assert next_step(update) == Commit()
        assert after(update, CommitAccepted()).state is S.COMMITTED
        for trouble in (failed("OTA.Commit"), StepTimedOut("OTA.Commit")):
            unsure = after(update, trouble)
            assert next_step(unsure) == Ask()
            assert after(unsure, BuildReported(KEPT)).state is S.COMMITTED
            assert next_step(after(unsure, BuildReported(TRIAL))) == Wait(NOW + 30)

    def test_after_a_lost_link_the_device_is_asked_before_it_is_committed(self) -> None:
        """It may have rebooted, and rolled back; an old build that accepts OTA.Commit proves nothing."""
        update = after(uncommitted(), CommitRequested(), *LOST_LINK)
        assert next_step(update) == Ask()
        assert after(update, CommitAccepted()) is update
        assert after(update, BuildReported(OLD)).state is S.ROLLED_BACK
        assert next_step(after(update, BuildReported(Build(id="new")))) == Ask()
        assert next_step(after(update, BuildReported(TRIAL))) == Commit()

    def test_not_committed_in_time_is_rolled_back_when_the_device_says_so(self) -> None:
        """And TIMED_OUT, with the truth in words, when it never comes back."""
        update = uncommitted()
        rolled_back = after(update, *LOST_LINK, BuildReported(OLD))
        assert (rolled_back.state, rolled_back.reason) == (
            S.ROLLED_BACK,
            "not committed: the device went back to build old",
        )
        silent = after(update, DeviceDisconnected(), UpdateDeadlinePassed(), now=NOW + 700)
        silent = after(silent, UpdateDeadlinePassed(), now=NOW + 700)
        assert silent.state is S.TIMED_OUT
        assert "has not said so" in silent.reason

    @pytest.mark.parametrize(
        ("reports", "state"),
        [
            ([Build(id="old", is_committed=False)], S.UNCOMMITTED),
            ([Build(id="other", is_committed=True)], S.COMMITTED),
            ([Build(id="other", is_committed=False)], S.UNCOMMITTED),
            ([Build(id="old", partition=1, is_committed=True)], S.COMMITTED),
            ([Build(id="old", partition=0, is_committed=True, status=0)], S.ROLLED_BACK),
            ([Build(id="old", status=0)], S.ROLLED_BACK),
            ([Build(id="old")], S.REBOOTING),
            ([Build(is_committed=True)], S.REBOOTING),
        ],
    )
    def test_a_bare_image_is_judged_by_what_changed(self, reports: list[Build], state: UpdateState) -> None:
        """Its build is unknown: another build or partition, or being uncommitted, shows that it runs."""
        update = rebooted(BARE)
        for build in reports:
            update = after(update, BuildReported(build))
        assert update.state is state

    @pytest.mark.parametrize("image", [BARE, attrs.evolve(ZIP, build_id="old")])
    def test_the_same_build_again_is_followed_by_commit_and_reboot(self, image: UpdateImage) -> None:
        """Nothing but being uncommitted tells them apart, and a reboot ends that."""
        trial = Build(id="old", is_committed=False)
        kept = attrs.evolve(trial, is_committed=True)
        update = after(rebooted(image, force=True), BuildReported(trial))
        assert update.state is S.UNCOMMITTED
        assert after(update, BuildReported(kept)).state is S.COMMITTED
        assert after(update, *LOST_LINK, BuildReported(kept)).state is S.ROLLED_BACK
        assert after(update, *LOST_LINK, BuildReported(trial), BuildReported(kept)).state is S.COMMITTED

    def test_the_same_build_that_commits_itself_is_committed(self) -> None:
        """It runs the image's build, and says that it is committed."""
        update = rebooted(attrs.evolve(ZIP, build_id="old"), force=True, commit_timeout=0)
        assert after(update, BuildReported(OLD)).state is S.COMMITTED


def on_trial(**options: Any) -> Update:
    """Came back at NOW with the new build, to be committed by itself after 60 s of health."""
    return uncommitted(auto_commit=True, commit_after=60, **options)


ANSWER = BuildReported(TRIAL, answered=True)


class TestTheHealthCheck:
    def test_a_healthy_device_is_committed(self) -> None:
        """There without a break for as long as was asked for, and answering then: OTA.Commit."""
        update = on_trial()
        for due in (30, 60):
            assert next_deadline(update) == NOW + due
            update = after(update, UpdateDeadlinePassed(), now=NOW + due)
            assert next_step(update) == Ask()
            update = after(update, ANSWER, now=NOW + due)
        assert next_step(update) == Commit()
        assert after(update, CommitAccepted()).state is S.COMMITTED

    def test_without_auto_commit_the_update_waits_for_a_commit(self) -> None:
        """However healthy."""
        update = after(uncommitted(), UpdateDeadlinePassed(), now=NOW + 30)
        assert next_step(after(update, ANSWER, now=NOW + 200)) == Wait(NOW + 230)

    def test_what_a_device_says_by_itself_is_no_answer(self) -> None:
        """It may send without hearing."""
        update = after(on_trial(), UpdateDeadlinePassed(), now=NOW + 70)
        said = after(update, BuildReported(TRIAL), now=NOW + 70)
        assert not said.commit_requested
        assert next_step(said) == Wait(NOW + 100)
        silent = after(update, StepTimedOut("OTA.Status"), now=NOW + 70)
        assert (silent.commit_requested, next_step(silent)) == (False, Wait(NOW + 100))

    def test_a_break_begins_the_check_again(self) -> None:
        """The time counts from the newest link, and not at all without one."""
        update = after(on_trial(), DeviceDisconnected(), now=NOW + 50)
        assert after(update, ANSWER, now=NOW + 61).commit_requested is False
        update = after(update, DeviceConnected(), now=NOW + 55)
        update = after(update, ANSWER, now=NOW + 61)
        assert (update.commit_requested, next_deadline(update)) == (False, NOW + 91)
        update = after(update, UpdateDeadlinePassed(), now=NOW + 91)
        update = after(update, ANSWER, now=NOW + 91)
        assert next_deadline(update) == NOW + 115
        update = after(update, UpdateDeadlinePassed(), now=NOW + 115)
        assert next_step(after(update, ANSWER, now=NOW + 115)) == Commit()

    def test_after_a_break_it_has_to_say_that_it_is_on_trial_still(self) -> None:
        """It may have rebooted, and an old build accepts OTA.Commit with an error at most."""
        update = after(on_trial(), *LOST_LINK)
        update = after(update, BuildReported(Build(id="new"), answered=True), now=NOW + 61)
        assert update.commit_requested is False

    def test_a_commit_that_fails_begins_the_check_again(self) -> None:
        """No loop of calls: after an error the device is asked, and gets its time anew."""
        update = after(on_trial(), UpdateDeadlinePassed(), now=NOW + 60)
        update = after(update, ANSWER, failed("OTA.Commit"), now=NOW + 60)
        assert next_step(update) == Ask()
        assert after(update, BuildReported(KEPT, answered=True)).state is S.COMMITTED
        update = after(update, ANSWER, now=NOW + 61)
        assert (update.commit_requested, next_step(update)) == (False, Wait(NOW + 91))

    def test_a_health_check_longer_than_the_device_waits_is_refused(self) -> None:
        """It would never commit anything; a device that commits itself does not wait."""
        with pytest.raises(ValueError, match="'commit_after' is 300 s, and has to be below"):
            Options(auto_commit=True, commit_after=300)
        Options(auto_commit=True, commit_after=300, commit_timeout=0)
        Options(commit_after=300)


class TestHowFast:
    def test_the_rate_is_that_of_the_present_transfer(self) -> None:
        """From the accepted OTA.Begin to the last chunk that was taken; nothing before, nothing of an older one."""
        update = after(queued(), Started(OLD), BeginAccepted())
        assert update.rate is None
        update = after(update, CHUNKS[0], now=NOW + 2)
        assert update.rate == 512
        update = after(update, CHUNKS[1], now=NOW + 8)
        assert update.rate == 256
        again = after(update, *LOST_LINK, BuildReported(OLD), now=NOW + 20)
        assert (again.attempt, again.rate) == (2, None)
        again = after(again, BeginAccepted(), now=NOW + 30)
        assert after(again, CHUNKS[0], now=NOW + 31).rate == 1024
        done = after(update, CHUNKS[2], EndAccepted(), now=NOW + 10)
        assert after(done, *LOST_LINK, BuildReported(TRIAL), now=NOW + 99).rate == 250


class TestTheImage:
    def test_an_image_is_the_update_s_own_unless_it_is_shared(self) -> None:
        """Its blob has the update's id; a shared one is of use to others after the end."""
        own, shared = queued(), Update.queued("u1", ZIP, now=NOW, blob="rollout_1")
        assert (own.blob_id, own.owns_blob) == ("u1", True)
        assert (shared.blob_id, shared.owns_blob) == ("rollout_1", False)
        assert Update.from_stored(json.loads(json.dumps(shared.to_stored()))) == shared


class TestWhatDevicesSend:
    def test_a_report_and_the_answers_are_read_alike(self) -> None:
        """`reported.ota` of a real device, and Sys.GetInfo with OTA.Status."""
        report = {
            "app": "app",
            "arch": "esp32",
            "commit_timeout": 0,
            "device_id": "esp32_1",
            "fw_id": "b1",
            "fw_version": "1.0",
            "is_committed": True,
            "mac": "00",
            "message": "idle",
            "partition": 0,
            "progress_percent": 0,
            "status": 0,
        }
        info = {
            "app": "app",
            "arch": "esp32",
            "fw_id": "b1",
            "fw_version": "1.0",
            "wifi": {"status": "got ip"},
        }
        status = {"state": 0, "message": "idle", "is_committed": True, "progress_percent": 0, "partition": 0}
        assert Build.from_wire(report) == Build.from_wire(info, status)
        assert Build.from_wire(report) == Build("b1", "1.0", "esp32", 0, True, 0, 0, "idle", "app")

    @given(
        st.dictionaries(
            st.sampled_from(["fw_id", "is_committed", "partition", "status", "x"]),
            st.from_type(type(None)) | st.booleans() | st.integers() | st.text() | st.lists(st.none()),
        )
    )
    def test_whatever_a_device_says_makes_a_build(self, said: dict[str, object]) -> None:
        """A wrong type counts as not said: True is no partition, 1 is no yes."""
        build = Build.from_wire(said)
        assert build.is_committed in (None, True, False)
        for value in (build.partition, build.status):
            assert value is None or type(value) is int

    def test_texts_of_devices_are_kept_to_a_bound(self) -> None:
        """A reason is for a person, and stored often."""
        assert len(Build.from_wire({"message": "x" * 10_000}).message or "") == 500
        assert len(after(transferring(), failed("OTA.Write", "Invalid CRC" + "x" * 10_000)).reason) < 600


class TestStoring:
    def test_a_stored_update_is_plain_json_that_reads_well(self) -> None:
        """A person finds the state by name."""
        stored = json.loads(json.dumps(uncommitted().to_stored()))
        assert (stored["state"], stored["image"]["build_id"], stored["options"]["chunk_size"]) == (
            "UNCOMMITTED",
            "new",
            1024,
        )
        assert Update.from_stored(stored) == uncommitted()

    def test_older_and_newer_documents_can_be_read(self) -> None:
        """What is missing has its default; what is unknown is ignored."""
        times = {"created": 1, "changed": 1, "active": 1}
        document = {"id": "u", "image": {"name": "a", "size": 1, "sha256": ""}, "novelty": 1} | times
        update = Update.from_stored(document)
        assert (update.state, update.changed, update.options) == (S.QUEUED, 1, Options())

    @pytest.mark.parametrize(
        "change",
        [{"state": "DONE"}, {"offset": "0"}, {"image": {}}, {"id": None}, {"options": {"chunk_size": 4096}}],
    )
    def test_a_damaged_document_is_refused(self, change: dict[str, object]) -> None:
        """A clear error, no half-read update."""
        with pytest.raises(InvalidInput, match="not a stored update"):
            Update.from_stored(queued().to_stored() | change)

    @pytest.mark.parametrize(
        "options",
        [
            {"chunk_size": 0},
            {"chunk_size": MAX_CHUNK_SIZE + 1},
            {"timeout": 0},
            {"commit_timeout": -1},
            {"max_attempts": 0},
            {"chunk_attempts": 99},
            {"chunks_in_flight": 0},
        ],
    )
    def test_options_have_bounds(self, options: dict[str, int]) -> None:
        """A setting that no device can stand is refused where it is made."""
        with pytest.raises(ValueError, match=next(iter(options))):
            Options(**options)


# ------------------------------------------------------------------------------------------------ laws

methods = st.sampled_from(["OTA.Begin", "OTA.Write", "OTA.End", "OTA.Status", "OTA.Commit", "Sys.GetInfo"])
builds = st.builds(
    Build,
    id=st.sampled_from([None, "old", "new", "other"]),
    version=st.sampled_from([None, "1.0", "2.0"]),
    platform=st.sampled_from([None, "esp32"]),
    partition=st.sampled_from([None, 0, 1]),
    is_committed=st.sampled_from([None, True, False]),
    status=st.sampled_from([None, 0, 1, 2, 3]),
    progress_percent=st.sampled_from([None, 0, 40, 81, 100]),
)
words = st.sampled_from(["", "busy", "Update already in progress", "Wrong platform", "Invalid CRC"])
events = st.one_of(
    st.builds(Started, st.none() | builds),
    st.builds(BeginAccepted),
    st.sampled_from(CHUNKS),
    st.builds(EndAccepted),
    st.builds(StepFailed, methods, st.integers(), words),
    st.builds(StepTimedOut, methods),
    st.builds(DeviceConnected),
    st.just(DeviceDisconnected()),
    st.builds(BuildReported, builds, st.booleans()),
    st.builds(CommitRequested),
    st.builds(CommitAccepted),
    st.builds(RevertAccepted),
    st.builds(CancelRequested),
    st.builds(NewerUpdateQueued),
    st.builds(UpdateDeadlinePassed),
)
starts = st.sampled_from([SITUATIONS[name] for name in SITUATIONS if name not in {end.value for end in UPDATE_ENDS}])
LONGEST = sum(limit.total for limit in STATE_LIMITS.values()) * 3 + 600 * 4 + 300  # every state in all 3 attempts


def deadlines_until_the_end(update: Update) -> int:
    count = 0
    while not update.ended:
        deadline = next_deadline(update)
        assert deadline is not None
        update = advance(update, UpdateDeadlinePassed(), now=deadline)
        count += 1
        assert count <= 4, update
    assert next_deadline(update) is None
    return count


class TestLaws:
    @given(
        starts, st.lists(st.tuples(events | st.just(DeviceDisconnected(resumed=True)), st.floats(0, 3600)), max_size=30)
    )
    def test_any_events_in_any_order(self, update: Update, happenings: list[tuple[UpdateEvent, float]]) -> None:
        """Bounds hold, ends hold, COMMITTED has its word, what is stored comes back, and it always ends."""
        now = NOW
        for event, passed in happenings:
            before = update
            deadline = next_deadline(update)
            now = now + passed if deadline is None else min(now + passed, deadline)
            update = advance(update, event, now=now)
            if before.ended:
                assert update is before
            if update.state is S.COMMITTED and not before.ended:
                if isinstance(event, BuildReported):
                    assert event.build.is_committed or (event.asked and event.build.is_committed is None)
                else:
                    unsaid = before.commit_unknown and isinstance(event, CommitUnsupported | StepFailed)
                    assert unsaid or isinstance(event, CommitAccepted)
            assert 0 <= update.offset <= update.image.size
            assert update.waits_until is None or update.session is Session.NONE or update.ended
            assert 1 <= update.attempt <= update.options.max_attempts
            assert update.ended == (next_step(update) is None) == (next_deadline(update) is None)
            assert update.reason or not update.ended or update.state is S.COMMITTED
            assert Update.from_stored(_json.decode(_json.encode(update.to_stored()))) == update
            if now == next_deadline(update):
                update = advance(update, UpdateDeadlinePassed(), now=now)
        deadlines_until_the_end(update)

    @given(starts, st.lists(events, max_size=40))
    def test_a_write_follows_an_accepted_begin(self, update: Update, happenings: list[UpdateEvent]) -> None:
        """On this link; or on an older one, if the device said since that it still holds the transfer, and can mean no
        other.
        """
        may_write = isinstance(next_step(update), Write)
        may_be_anothers = update.held_until is not None and update.begun is None
        for event in happenings:
            before, update = update, after(update, event)
            may_be_anothers = may_be_anothers and update.begun is None
            match event:
                case BeginAccepted() if next_step(before) == Begin(2500, 600, 300):
                    may_write = True
                case BuildReported(build) if isinstance(next_step(before), Ask):
                    may_write = before.session is Session.LOST and build.status == 1 and not may_be_anothers
                case StepFailed("OTA.Begin", _, message) if "already in progress" in message:
                    may_write = before.session is Session.UNSURE and not before.image.bare and not may_be_anothers
                case DeviceConnected() | DeviceDisconnected():
                    may_write = False
            if update.attempt != before.attempt:
                may_write = False
            assert may_write or not isinstance(next_step(update), Write)

    @given(starts, st.lists(events, max_size=40))
    def test_a_deadline_told_too_early_ends_nothing(self, update: Update, happenings: list[UpdateEvent]) -> None:
        """A timer that fires early does no harm."""
        update = after(update, *happenings)
        deadline = next_deadline(update)
        if deadline is not None:
            assert advance(update, UpdateDeadlinePassed(), now=deadline - 0.001) is update

    @given(starts, st.lists(events, min_size=1, max_size=8))
    def test_no_device_keeps_an_update_alive_for_ever(self, update: Update, cycle: list[UpdateEvent]) -> None:
        """The same happenings again and again, just before each deadline that is not near: the total limits end it."""
        now = NOW
        for turn in range(100_000):
            if update.ended:
                break
            deadline = next_deadline(update)
            assert deadline is not None
            now = max(now, deadline - 1)
            if deadline <= now + 3:  # a new link begins a short pause
                now += 60
                update = advance(update, UpdateDeadlinePassed(), now=now)
            for event in cycle:
                update = advance(update, event, now=now)
            due = next_deadline(update)
            if due is not None and due == deadline:
                now = due
                update = advance(update, UpdateDeadlinePassed(), now=now)
            assert now - NOW <= LONGEST, turn
        assert update.ended


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((), False),
        ((EndAccepted(),), True),
        ((EndAccepted(), *LOST_LINK), True),
        ((StepTimedOut("OTA.End"),), False),
        ((DeviceDisconnected(),), False),
        (LOST_LINK, False),
        ((*LOST_LINK, BuildReported(OLD)), False),
        ((*LOST_LINK, BuildReported(TRIAL)), True),
        ((*LOST_LINK, BuildReported(attrs.evolve(OLD, status=1))), False),
        ((*LOST_LINK, BuildReported(attrs.evolve(OLD, status=1)), EndAccepted()), True),
    ],
)
def test_a_device_has_the_image_when_that_is_known(events, expected):
    """OTA.End was accepted, or its report says what it runs; a lost answer is no yes. It is stored with the update."""
    update = after(verifying(), *events)
    assert update.image_taken is expected
    assert Update.from_stored(json.loads(json.dumps(update.to_stored()))).image_taken is expected


class TestAnotherClock:
    def test_every_time_is_moved(self):
        """Each field that can hold seconds of a clock, and no other: `unattended` is a duration."""
        floats = {field.name for field in attrs.fields(Update) if "float" in str(field.type)}
        assert floats == {*TIME_FIELDS, "unattended"}
        update = attrs.evolve(queued(), **dict.fromkeys(TIME_FIELDS, 1000.0))
        assert {getattr(moved(update, -500.0), name) for name in TIME_FIELDS} == {500.0}

    def test_the_words_follow(self):
        """Where a reason names a time of the day, it is that of the new clock."""
        waits = attrs.evolve(queued(), waits_until=86_400.0, reason=waiting_reason(86_400.0))
        assert "00:00" in waits.reason
        assert "01:30" in moved(waits, 5400.0).reason
        assert moved(attrs.evolve(waits, reason="no"), 5400.0).reason == "no"


def test_a_device_that_says_at_last_that_it_is_on_trial_is_not_taken_for_committed():
    """It could not say so before, and its commit time-out is over by the clock here, not by its own."""
    trial = after(rebooted(), plain(KEPT))
    later = NOW + trial.options.commit_timeout + 11
    assert advance(trial, plain(KEPT), now=later).state is S.COMMITTED
    said = advance(trial, reported(TRIAL), now=later)
    assert (said.state, said.commit_unknown, said.reason) == (S.UNCOMMITTED, False, "")


class TestAnOutage:
    """No performer performs the update; how long, only the wall clock says. The device goes on meanwhile."""

    @pytest.mark.parametrize("situation", [name for name, update in SITUATIONS.items() if not update.ended])
    @pytest.mark.parametrize("seconds", [0.0, 60.0, 3600.0, 50 * 365 * 86_400.0])
    def test_it_counts_for_no_limit(self, situation, seconds):
        """The update has all of its idle limit again, and the rest of its total limit."""
        update = SITUATIONS[situation]
        now = update.newest_time + seconds
        found = advance(update, DeviceDisconnected(resumed=True), now=now)
        limit = STATE_LIMITS[found.state]
        assert time_limit(found) >= now + min(limit.idle, limit.total)
        assert advance(found, UpdateDeadlinePassed(), now=now).state is found.state
        again = advance(found, DeviceDisconnected(resumed=True), now=now + seconds)
        assert time_limit(again) - time_limit(found) == pytest.approx(seconds)

    def test_a_device_that_was_not_heard_is_not_said_to_have_rolled_back(self):
        """It has committed by itself and cannot say so; after its commit time-out, on a clock that runs, that is so."""
        trial = after(rebooted(), plain(KEPT))
        assert (trial.state, trial.commit_unknown) == (S.UNCOMMITTED, True)
        now = NOW + 86_400.0
        found = advance(trial, DeviceDisconnected(resumed=True), now=now)
        found = advance(found, DeviceConnected(), now=now + 1)
        said = plain(KEPT)
        assert advance(found, said, now=now + 2).state is S.UNCOMMITTED
        assert advance(found, said, now=now + trial.options.commit_timeout + 11).state is S.COMMITTED

    def test_a_transfer_that_the_device_may_hold_is_waited_for_again(self):
        """The outage may have been shorter than the clock says. The words follow."""
        waits = SITUATIONS["waits for the device"]
        found = advance(waits, DeviceDisconnected(resumed=True), now=waits.newest_time + 5400.0)
        assert found.waits_until == waits.waits_until + 5400.0
        assert found.reason == waiting_reason(found.waits_until)

    def test_the_next_state_counts_anew(self):
        """What was not performed in a state lengthens no other."""
        found = advance(rebooted(), DeviceDisconnected(resumed=True), now=NOW + 3600.0)
        trial = after(found, DeviceConnected(), BuildReported(TRIAL), now=NOW + 3600.0)
        assert (trial.state, found.unattended > 0, trial.unattended) == (S.UNCOMMITTED, True, 0.0)

    @pytest.mark.parametrize("end", sorted(UPDATE_ENDS))
    def test_an_end_stays(self, end):
        """Nothing of it changes."""
        ended = SITUATIONS[end.value]
        assert advance(ended, DeviceDisconnected(resumed=True), now=NOW + 3600.0) is ended


class TestAnAnswerThatCannotBeRead:
    REFUSAL = StepFailed("OTA.Begin", 502, "the answer cannot be read", readable=False)

    def begun(self, held_until: float | None) -> Update:
        return after(attrs.evolve(queued(), held_until=held_until), DeviceConnected(), Started(OLD))

    def test_by_a_device_that_had_a_transfer_just_now(self):
        """It most likely says that it holds it: that is waited for, as long as it was told to hold it."""
        waits = after(self.begun(NOW + 50.0), self.REFUSAL)
        assert (waits.state, waits.waits_until) == (UpdateState.TRANSFERRING, NOW + 60.0)
        over = advance(attrs.evolve(waits, not_before=None), self.REFUSAL, now=NOW + 60.0)
        assert (over.state, "cannot be read" in over.reason) == (UpdateState.FAILED, True)

    @pytest.mark.parametrize("held_until", [None, NOW])
    def test_by_any_other(self, held_until):
        """It has failed."""
        assert after(self.begun(held_until), self.REFUSAL).state is UpdateState.FAILED
