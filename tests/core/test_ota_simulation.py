"""An update against a simulated device, which keeps the truth to compare with.

The device behaves as Mongoose OS does: it keeps an open transfer when its link drops, forgets it after its
time-out, checks the digests of a zip and not of a bare image, reboots half a second after `OTA.End`, and
rolls back when it is not committed in time or reboots before. Some devices do not have OTA.Status, some have no trial
and no OTA.Commit either, some do not forget a transfer until they reboot. Links drop before and after a call is heard,
answers get lost, power is cut, the server is replaced by another process, immediately or after an outage, the server's
wall clock is set, at any point.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mdashcore import _json
from mdashcore.ota import (
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
    Started,
    Status,
    StepFailed,
    StepTimedOut,
    Update,
    UpdateDeadlinePassed,
    UpdateEvent,
    UpdateImage,
    UpdateState,
    Wait,
    Write,
    advance,
    moved,
    next_deadline,
    next_step,
)

CHUNK = 2
REBOOT_DELAY = 0.5  # seconds between the answer to OTA.End and the reboot
FAR_BACK = -(2.0**30)  # seconds: 34 years. All times here are eighths of seconds, so that sums of them are exact


class Refusal(Exception):
    """The device answers with an error."""

    def __init__(self, message: str, code: int = -1) -> None:
        super().__init__(message)
        self.code = code


@attrs.define
class Device:
    image: bytes
    checks_digests: bool
    heeds_offset: bool
    tells_percent: bool
    has_status: bool = True
    has_trial: bool = True
    forgets: bool = True
    runs: str = "old"
    slot: int = 0
    committed: bool = True
    status: int = 0
    received: bytearray | None = None
    size: int = 0
    timeout: float = 0.0
    commit_timeout: float = 0.0
    forgets_at: float = 0.0
    reboots_at: float | None = None
    reverts_at: float | None = None
    began_since_boot: bool = False
    holds_anothers: bool = False

    def hold_another(self, now: float, seconds: float, received: int) -> None:
        """An earlier update has left its transfer behind."""
        self.received, self.status, self.holds_anothers = bytearray(received), 1, True
        self.size, self.timeout, self.forgets_at = 301, seconds, now + seconds

    def next_timer(self) -> float | None:
        forgets = self.forgets_at if self.received is not None and self.forgets else None
        timers = [t for t in (forgets, self.reboots_at, self.reverts_at) if t is not None]
        return min(timers, default=None)

    def pass_time(self, now: float) -> bool:
        """Whether it rebooted."""
        if self.received is not None and self.forgets and now >= self.forgets_at:
            self.received, self.status = None, 0
        if self.reboots_at is not None and now >= self.reboots_at:
            self.boot(now)
            return True
        if self.reverts_at is not None and now >= self.reverts_at:
            self.boot(now)
            return True
        return False

    def boot(self, now: float) -> None:
        self.received, self.status, self.began_since_boot = None, 0, False
        if self.reboots_at is not None:
            self.runs, self.slot = "new", 1 - self.slot
            self.committed = self.commit_timeout == 0 or not self.has_trial
            self.reverts_at = None if self.committed else now + self.commit_timeout
        elif not self.committed:
            self.runs, self.slot, self.committed, self.reverts_at = "old", 1 - self.slot, True, None
        self.reboots_at = None

    def call(self, method: str, params: dict[str, Any], data: bytes, now: float) -> dict[str, Any]:
        match method:
            case "OTA.Begin":
                if self.received is not None or self.reboots_at is not None:
                    raise Refusal("Update already in progress")
                if not self.committed:
                    raise Refusal("Previous update has not been committed yet")
                self.received, self.status, self.began_since_boot = bytearray(), 1, True
                self.holds_anothers = False
                self.size, self.timeout = params["size"], params["timeout"]
                self.commit_timeout = params["commit_timeout"]
                self.forgets_at = now + self.timeout
            case "OTA.Write":
                if self.received is None:
                    raise Refusal("No update in progress")
                offset = params["offset"] if self.heeds_offset else len(self.received)
                if offset > len(self.received):
                    raise Refusal("Wrong offset")
                self.received[offset:] = data
                self.forgets_at = now + self.timeout
            case "OTA.End":
                if self.received is None:
                    raise Refusal("No update in progress")
                good, self.received = bytes(self.received) == self.image, None
                assert good or self.checks_digests, "a device got a damaged image that it cannot check"
                if not good:
                    self.status = 2
                    raise Refusal("Invalid CRC")
                self.status, self.reboots_at = 3, now + REBOOT_DELAY
            case "OTA.Commit":
                if not self.has_trial:
                    raise Refusal("No handler for OTA.Commit", 404)
                if self.committed:
                    raise Refusal("already committed")
                self.committed, self.reverts_at = True, None
            case "OTA.Revert":
                if self.committed:
                    raise Refusal("nothing to revert")
                self.reverts_at = now + 0.125
        return {}

    def build(self) -> Build:
        if not self.has_status:
            return Build.from_wire({"fw_id": self.runs})
        report: dict[str, Any] = {
            "fw_id": self.runs,
            "is_committed": self.committed,
            "partition": self.slot,
            "status": self.status,
        }
        if self.tells_percent and self.received is not None:
            report["progress_percent"] = min(100, 100 * len(self.received) // self.size)
        return Build.from_wire(report)


TROUBLES = [
    "time passes",
    "answer lost",
    "call lost",
    "link drops, call heard",
    "link drops, call not heard",
    "link drops",
    "link flickers",
    "new link",
    "report",
    "power cut",
    "another process",
    "outage",
    "clock is set",
    "its turn",
    "commit wanted",
    "commit at the device",
    "OTA.Commit",
    "OTA.Revert",
]


SETS = {0.125: 3600.0, 20.0: -2.0, 70.0: -7200.0, 400.0: 2.0**30, 2000.0: FAR_BACK}
"""Seconds by which the clock is set, each in place of a time that passes."""

SETS_UNSEEN = {70.0: 3600.0, 400.0: 2.0**30}
"""Seconds by which it is set while no process runs, by the seconds that pass meanwhile."""


class Simulation(RuleBasedStateMachine):
    @initialize(
        size=st.sampled_from([1, 5, 9, 301]),
        bare=st.booleans(),
        heeds_offset=st.booleans(),
        tells_percent=st.booleans(),
        commit_timeout=st.sampled_from([0, 60, 300]),
        timeout=st.sampled_from([60, 600]),
        auto_commit=st.booleans(),
        head_start=st.integers(0, 12),
        kind=st.sampled_from(["all", "all", "no status", "no trial"]),
        forgets=st.sampled_from([True, True, False]),
        earlier=st.none() | st.tuples(st.sampled_from([20.0, 100.0, 600.0]), st.sampled_from([0, 2, 50])),
    )
    def begin(
        self,
        size: int,
        bare: bool,
        heeds_offset: bool,
        tells_percent: bool,
        commit_timeout: int,
        timeout: int,
        auto_commit: bool,
        head_start: int,
        kind: str = "all",
        forgets: bool = True,
        earlier: tuple[float, int] | None = None,
    ) -> None:
        self.now = self.performed_since = 1000.0
        self.ahead = 0.0
        self.data = bytes(n % 251 for n in range(size))
        self.device = Device(
            self.data, not bare, heeds_offset, tells_percent, kind == "all", kind != "no trial", forgets
        )
        self.online = True
        self.image = UpdateImage("fw", size, "", None if bare else "new", bare=bare)
        self.asked_to_commit = False
        options = Options(
            chunk_size=CHUNK,
            commit_timeout=commit_timeout,
            timeout=timeout,
            auto_commit=auto_commit,
            commit_after=20,
        )
        held_until = None
        if earlier is not None:
            self.device.hold_another(self.now, *earlier)
            held_until = self.wall + earlier[0]
        self.update = Update.queued("u", self.image, now=self.wall, options=options, held_until=held_until)
        self.tell(DeviceConnected())
        if head_start:
            self.tell(Started(self.device.build()))
            self.things_go_well(head_start if size < 301 else head_start * 20, True)

    @property
    def wall(self) -> float:
        """What the server's wall clock shows; the device knows nothing of it."""
        return self.now + self.ahead

    # ---- what the service does

    def tell(self, event: UpdateEvent) -> None:
        """The update after an event, through the store; at an end, its claim is held against the device."""
        before = self.update
        self.update = advance(before, event, now=self.wall)
        then = advance(moved(before, FAR_BACK), event, now=self.wall + FAR_BACK)
        assert then == moved(self.update, FAR_BACK), "the same event has led elsewhere by another clock"
        self.update = Update.from_stored(_json.decode(_json.encode(self.update.to_stored())))
        if before.ended:
            assert self.update == before
        elif self.update.state is UpdateState.COMMITTED:
            assert (self.device.runs, self.device.committed) == ("new", True)
        elif self.update.state is UpdateState.UNCOMMITTED is not before.state:
            assert self.device.runs == "new"
            assert self.update.commit_unknown or not self.device.committed
        elif self.update.state is UpdateState.ROLLED_BACK:
            assert self.device.runs == "old" or isinstance(event, RevertAccepted)
        elif self.update.state in (UpdateState.CANCELED, UpdateState.SUPERSEDED):
            assert self.device.runs == "old"
            assert self.device.reboots_at is None
        elif self.update.state is UpdateState.TIMED_OUT and isinstance(event, UpdateDeadlinePassed):
            assert self.now - self.performed_since >= 300, "the device has had no time to say what it runs"

    def perform(self, *, heard: bool, answered: bool) -> None:
        step = next_step(self.update)
        if step is None or isinstance(step, Wait):
            return
        assert self.online, "a call to a device without a link"
        params, data = {}, b""
        if isinstance(step, Begin):
            params = step.params()
        if isinstance(step, Commit):
            assert self.asked_to_commit or self.update.options.auto_commit, "OTA.Commit that nobody wanted"
        if isinstance(step, Write):
            data = self.data[step.offset : step.offset + step.size]
            assert len(data) == step.size
            params = step.params(data)
            assert self.device.began_since_boot, "OTA.Write to a device that did not accept OTA.Begin"
            assert not self.device.holds_anothers, "OTA.Write into the transfer of an earlier update"
        event: UpdateEvent = StepTimedOut(step.method)
        if heard:
            try:
                self.device.call(step.method, params, data, self.now)
                event = self.answer(step)
            except Refusal as exc:
                event = StepFailed(step.method, exc.code, str(exc))
        if not answered:
            event = StepTimedOut(step.method)
        if self.online:
            self.tell(event)

    def answer(self, step: object) -> UpdateEvent:
        match step:
            case Begin():
                return BeginAccepted()
            case Write(offset, size):
                return ChunkAccepted(offset, size)
            case End():
                return EndAccepted()
            case Commit():
                return CommitAccepted()
            case _:
                assert isinstance(step, Ask)
                status = Status.ANSWERED if self.device.has_status else Status.NO_METHOD
                return BuildReported(self.device.build(), answered=True, status=status)

    # ---- what happens

    @rule(turns=st.integers(1, 12), reports=st.booleans())
    def things_go_well(self, turns: int, reports: bool) -> None:
        """A device that is away comes back, one that is asked answers, one that has to reboot does."""
        for _ in range(turns):
            if not self.online:
                self.connect(reports=reports)
            elif self.device.reboots_at is not None:
                self.time_passes(1.0)
            else:
                self.perform(heard=True, answered=True)

    @rule(kind=st.sampled_from(TROUBLES), seconds=st.sampled_from([0.125, 20.0, 70.0, 400.0, 2000.0]))
    def something_happens(self, kind: str, seconds: float) -> None:
        match kind:
            case "time passes":
                self.time_passes(seconds)
            case "answer lost":
                self.perform(heard=True, answered=False)
            case "call lost":
                self.perform(heard=False, answered=False)
            case "link drops, call heard" | "link drops, call not heard":
                update = self.update
                self.perform(heard=kind == "link drops, call heard", answered=False)
                self.update = update  # the end of the call was not seen
                self.drop()
            case "link drops":
                self.drop()
            case "link flickers":
                self.drop()
                self.connect(reports=True)
            case "new link":
                self.connect(reports=False)
            case "report" if self.online:
                self.tell(BuildReported(self.device.build()))
            case "power cut":
                self.device.boot(self.now)
                self.drop()
            case "another process":
                self.tell(DeviceDisconnected())
                if self.online:
                    self.tell(DeviceConnected())
            case "outage":
                self.online = False
                self.now += seconds
                self.device.pass_time(self.now)
                self.ahead += SETS_UNSEEN.get(seconds, 0.0)
                self.performed_since = self.now
                self.tell(DeviceDisconnected(resumed=True))
            case "clock is set":
                by = SETS[seconds]
                self.ahead += by
                self.update = moved(self.update, by)
            case "its turn" if self.online:
                self.tell(Started(self.device.build()))
            case "commit wanted":
                self.asked_to_commit = True
                self.tell(CommitRequested())
            case "commit at the device" if not self.device.committed:
                self.device.call("OTA.Commit", {}, b"", self.now)
            case "OTA.Commit" | "OTA.Revert" if self.online:
                try:
                    self.device.call(kind, {}, b"", self.now)
                except Refusal as exc:
                    if exc.code == 404:
                        self.tell(CommitUnsupported())
                    return
                self.tell(CommitAccepted() if kind == "OTA.Commit" else RevertAccepted())

    @precondition(lambda self: self.now > 1300)
    @rule(event=st.sampled_from([CancelRequested(), NewerUpdateQueued()]))
    def a_user_changes_their_mind(self, event: UpdateEvent) -> None:
        self.tell(event)

    def drop(self) -> None:
        if self.online:
            self.online = False
            self.tell(DeviceDisconnected())

    def connect(self, *, reports: bool) -> None:
        self.online = True
        self.tell(DeviceConnected())
        if reports:
            self.tell(BuildReported(self.device.build()))

    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(1000):
            deadline = next_deadline(self.update)
            due = None if deadline is None else deadline - self.ahead
            timers = [end, *(t for t in (due, self.device.next_timer()) if t is not None)]
            self.now = max(self.now, min(timers))
            if self.device.pass_time(self.now):
                self.drop()
            if deadline is not None and self.wall >= deadline:
                self.tell(UpdateDeadlinePassed())
            if self.now >= end:
                return
        raise AssertionError("time stands still")

    def teardown(self) -> None:
        """Without further events the update ends."""
        if not hasattr(self, "update"):
            return
        for _ in range(5):
            deadline = next_deadline(self.update)
            if deadline is None:
                break
            self.now = max(self.now, deadline - self.ahead)
            self.update = advance(self.update, UpdateDeadlinePassed(), now=self.wall)
        assert self.update.ended


TestSimulation = Simulation.TestCase
TestSimulation.settings = settings(stateful_step_count=40)


@pytest.mark.parametrize(("commits", "end"), [(True, UpdateState.COMMITTED), (False, UpdateState.ROLLED_BACK)])
def test_without_trouble_the_simulation_ends_as_it_should(commits: bool, end: UpdateState) -> None:
    """It is no straw man: it commits when it is told to, and rolls back when it is not."""
    course = Simulation()
    course.begin(40, False, False, True, 300, 600, False, head_start=1)
    course.things_go_well(25, True)
    assert course.update.state is UpdateState.UNCOMMITTED
    if commits:
        course.something_happens("commit wanted", 0.0)
    else:
        course.time_passes(400.0)
    course.things_go_well(3, True)
    assert course.update.state is end


def test_a_transfer_that_a_device_never_forgets_is_not_taken_for_ours() -> None:
    """The time after which others forget it is over, and the answer to OTA.Begin was lost."""
    course = Simulation()
    course.begin(1, False, False, False, 0, 60, False, head_start=0, forgets=False, earlier=(20.0, 0))
    course.something_happens("time passes", 70.0)
    course.something_happens("answer lost", 0.125)
    course.something_happens("link flickers", 0.125)
    course.things_go_well(1, False)  # OTA.Write into it would fail here
    course.teardown()


def test_a_healthy_device_is_committed_without_a_request() -> None:
    """Where that was asked for; and the same device, cut off before its time, rolls back."""
    for breaks, end in ((False, UpdateState.COMMITTED), (True, UpdateState.ROLLED_BACK)):
        course = Simulation()
        course.begin(40, False, False, True, 60, 600, True, head_start=1)
        course.things_go_well(25, True)
        assert course.update.state is UpdateState.UNCOMMITTED
        if breaks:
            course.drop()
            course.time_passes(70.0)
        course.time_passes(25.0)
        course.things_go_well(4, True)
        assert course.update.state is end
