"""The machine of rollouts: every state and event, and the laws of its judge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rows import every_row

from mdashcore import ota
from mdashcore._errors import InvalidInput
from mdashcore.rollout import (
    BATCH,
    MAX_MEMBERS,
    ROLLOUT_ENDS,
    ROLLOUT_TRANSITIONS,
    AbortRequested,
    AllEnded,
    Approved,
    Cause,
    Counts,
    ErrorsExceeded,
    Member,
    Outcome,
    PauseRequested,
    PhasePassed,
    Plan,
    ResumeRequested,
    RetryRequested,
    Rollout,
    RolloutDeadlinePassed,
    RolloutKind,
    RolloutState,
    Settled,
    SuccessMissed,
    WaitKind,
    Window,
    added,
    advance,
    budget,
    claim,
    deadline,
    describe_plan,
    judge,
    most_frequent,
    next_look,
    offline_deadline,
    ordered,
    parse_request,
    settled,
    to_forgive,
    update_id,
    waiting_turn,
    waiting_update,
)

NOW = 1_700_000_000.0
IMAGE = ota.UpdateImage(name="fw.zip", size=1000, sha256="00")

NOBODY = Counts()
EVENTS = {
    Approved: Approved(),
    PauseRequested: PauseRequested(),
    ResumeRequested: ResumeRequested((NOBODY,)),
    RetryRequested: RetryRequested(),
    AbortRequested: AbortRequested(),
    PhasePassed: PhasePassed(),
    SuccessMissed: SuccessMissed(Counts(succeeded=1, failed=1)),
    ErrorsExceeded: ErrorsExceeded(0, 1, 2),
    AllEnded: AllEnded(Counts(succeeded=3)),
    Settled: Settled(),
    RolloutDeadlinePassed: RolloutDeadlinePassed(NOBODY),
}

WAYS = {
    (RolloutState.AWAITING_APPROVAL, Approved): RolloutState.RUNNING,
    (RolloutState.RUNNING, PhasePassed): RolloutState.RUNNING,
    (RolloutState.RUNNING, AllEnded): RolloutState.COMPLETED,
    (RolloutState.RUNNING, ErrorsExceeded): RolloutState.PAUSED,
    (RolloutState.RUNNING, SuccessMissed): RolloutState.PAUSED,
    (RolloutState.RUNNING, PauseRequested): RolloutState.PAUSED,
    (RolloutState.RUNNING, RetryRequested): RolloutState.RUNNING,
    (RolloutState.PAUSED, ResumeRequested): RolloutState.RUNNING,
    (RolloutState.PAUSED, RetryRequested): RolloutState.RUNNING,
    (RolloutState.ABORTING, Settled): RolloutState.ABORTED,
    (RolloutState.ABORTING, RolloutDeadlinePassed): RolloutState.ABORTED,
} | {
    (state, event): RolloutState.ABORTING
    for state in (RolloutState.AWAITING_APPROVAL, RolloutState.RUNNING, RolloutState.PAUSED)
    for event in (AbortRequested, RolloutDeadlinePassed)
}
"""Where each event leads from each state; in all other cases nowhere."""


def begun(members=1000, now=NOW, **fields):
    return Rollout.begun("rol_a", "fw", IMAGE, Plan(**fields), (), members, now=now)


def in_state(state, **fields):
    return attrs.evolve(begun(), state=state, **fields)


# The table


@every_row(("state", "event"), list(product(RolloutState, EVENTS)))
def test_every_state_and_event(state, event):
    """It leads where it should, or changes nothing at all; and no end is ever left."""
    before = in_state(state)
    after = advance(before, EVENTS[event], now=NOW + 5)
    wanted = WAYS.get((state, event))
    if wanted is None:
        assert after is before
    else:
        assert after.state is wanted
        assert after.changed == (NOW + 5 if wanted is not state else NOW)
    assert ((state, event) in ROLLOUT_TRANSITIONS) == (wanted is not None)
    assert state not in ROLLOUT_ENDS or wanted is None


def test_every_state_leads_to_an_end():
    """By its own deadline, whatever else happens or does not."""
    for state in set(RolloutState) - ROLLOUT_ENDS:
        rollout = in_state(state)
        counts = (Counts(updating=10), Counts(pending=90), Counts(pending=900))
        for _ in range(2):
            rollout = judge(rollout, counts, deadline(rollout))
        assert rollout.state is RolloutState.ABORTED
        assert "not done in time" in rollout.reason or state is RolloutState.ABORTING
        assert "10 devices" in rollout.reason


@pytest.mark.parametrize("state", [RolloutState.PAUSED, RolloutState.ABORTED, RolloutState.COMPLETED])
def test_where_a_person_has_to_look_there_is_a_reason(state):
    """Whatever has led there."""
    for (before, event), transition in ROLLOUT_TRANSITIONS.items():
        if transition.to is state and before is not RolloutState.ABORTING:
            assert advance(in_state(before), EVENTS[event], now=NOW).reason


# The judge


def settled_counts(total):
    return st.tuples(*[st.integers(0, total)] * 5).map(lambda numbers: Counts(*numbers))


@st.composite
def standings(draw):
    """A rollout anywhere on its way, and numbers that it may have."""
    phases = draw(st.sampled_from([(100.0,), (1.0, 100.0), (1.0, 10.0, 100.0), (0.1, 0.2, 50.0, 100.0)]))
    rollout = begun(
        draw(st.integers(1, 2000)),
        phases=phases,
        success_percent=draw(st.floats(0, 100)),
        error_percent=draw(st.floats(0, 100)),
        min_sample=draw(st.integers(1, 20)),
    )
    counts = []
    for each in rollout.counts:
        cuts = sorted(draw(st.tuples(*[st.integers(0, each.total)] * 4)))
        counts.append(Counts(*(b - a for a, b in zip((0, *cuts), (*cuts, each.total), strict=True))))
    phase = draw(st.integers(0, len(phases) - 1))
    rollout = attrs.evolve(
        rollout,
        state=draw(st.sampled_from(RolloutState)),
        phase=phase,
        phase_started=(NOW,) * (phase + 1),
        accepted=draw(st.integers(0, len(phases))),
        forgiven=draw(st.sampled_from([(), tuple(counts)])),
        cause=draw(st.sampled_from([None, *Cause])),
    )
    return rollout, tuple(counts), NOW + draw(st.floats(0, 40 * 86_400))


@given(standings())
def test_judging_twice_changes_nothing(standing):
    """The second time, it is the very same object."""
    rollout, counts, now = standing
    judged = judge(rollout, counts, now)
    assert judge(judged, counts, now) is judged


@given(standings())
def test_judging_leads_forward_only(standing):
    """No earlier phase, out of no end, and never from PAUSED to RUNNING without a person."""
    rollout, counts, now = standing
    judged = judge(rollout, counts, now)
    assert judged.phase >= rollout.phase
    if rollout.ended:
        assert judged is rollout
    if rollout.state is not RolloutState.RUNNING:
        assert judged.state is not RolloutState.RUNNING
    if judged is not rollout:
        assert judged.counts == counts


@given(standings())
def test_a_phase_begins_by_success_or_by_a_person_s_word(standing):
    """Each phase that was passed has the success that it should, or was accepted as it is, or has no device."""
    rollout, counts, now = standing
    judged = judge(rollout, counts, now)
    for phase in range(rollout.phase, judged.phase):
        each = counts[phase]
        wanted = each.total - each.skipped
        enough = wanted > 0 and each.succeeded * 100 >= rollout.plan.success_percent * wanted
        assert enough or each.total == 0 or (rollout.accepted > phase and each.all_ended)


@given(standings())
def test_too_many_errors_stop_it(standing):
    """While it runs, no phase that has begun has more of them than the threshold, given its sample."""
    rollout, counts, now = standing
    assume(not rollout.forgiven)
    judged = judge(rollout, counts, now)
    if judged.state in (RolloutState.RUNNING, RolloutState.COMPLETED) and rollout.state is RolloutState.RUNNING:
        for each in counts[: judged.phase + 1]:
            sample = min(rollout.plan.min_sample, each.total - each.skipped)
            if each.failed and each.judged >= sample:
                assert each.failed * 100 <= rollout.plan.error_percent * each.judged


@pytest.mark.parametrize(
    ("failed", "succeeded", "state"),
    [
        (1, 1, RolloutState.RUNNING),
        (2, 1, RolloutState.PAUSED),
        (10, 10, RolloutState.RUNNING),
        (11, 10, RolloutState.PAUSED),
    ],
)
def test_the_threshold_of_errors_is_exact(failed, succeeded, state):
    """As many as it allows are allowed, and one more is not."""
    rollout = begun(members=3000, error_percent=50.0, min_sample=2)
    first, *others = rollout.counts
    counts = (Counts(failed=failed, succeeded=succeeded, pending=30 - failed - succeeded), *others)
    assert first.total == 30
    assert judge(rollout, counts, NOW + 1).state is state


def test_the_straight_way():
    """Phase after phase, as soon as enough of each have succeeded; stragglers are waited for at the end only."""
    rollout = begun()
    assert [each.total for each in rollout.counts] == [10, 90, 900]
    first = (Counts(updating=1, succeeded=9), Counts(pending=90), Counts(pending=900))
    assert judge(rollout, first, NOW) is rollout
    rollout = judge(rollout, (Counts(succeeded=10), *first[1:]), NOW + 1)
    assert (rollout.phase, rollout.phase_started) == (1, (NOW, NOW + 1))
    second = (Counts(succeeded=10), Counts(updating=3, succeeded=86, failed=1), Counts(pending=900))
    rollout = judge(rollout, second, NOW + 2)
    assert rollout.phase == 2
    last = (*second[:2], Counts(succeeded=880, failed=20))
    assert judge(rollout, last, NOW + 3) is rollout
    rollout = judge(rollout, (Counts(succeeded=10), Counts(succeeded=89, failed=1), last[2]), NOW + 4)
    assert (rollout.state, rollout.reason) == (RolloutState.COMPLETED, "979 of 1000 devices succeeded, 21 failed")


def test_errors_pause_it_and_a_person_decides():
    """Resumed, what has failed so far counts on; if that is forgiven, what fails then is judged for itself."""
    rollout = begun()
    rest = (Counts(pending=90), Counts(pending=900))
    assert judge(rollout, (Counts(updating=6, failed=4), *rest), NOW) is rollout, "no sample yet"
    counts = (Counts(updating=5, failed=5), *rest)
    paused = judge(rollout, counts, NOW)
    assert (paused.state, paused.cause) == (RolloutState.PAUSED, Cause.ERRORS)
    assert paused.reason == "5 of 5 devices of phase 1 failed: more than 10 %, the error threshold"
    assert to_forgive(paused, counts) == 5
    stubborn = advance(paused, ResumeRequested(counts), now=NOW + 9)
    assert (stubborn.state, judge(stubborn, counts, NOW + 9).reason) == (RolloutState.RUNNING, paused.reason)
    resumed = advance(paused, ResumeRequested(counts, forgive=True), now=NOW + 9)
    assert (resumed.state, resumed.reason, resumed.phase_started) == (RolloutState.RUNNING, "", (NOW,))
    assert judge(resumed, counts, NOW + 9) is resumed
    assert to_forgive(resumed, counts) == 0
    assert judge(resumed, (Counts(updating=1, succeeded=4, failed=5), *rest), NOW + 9) is resumed
    again = judge(resumed, (Counts(failed=10), *rest), NOW + 9)
    assert again.reason.startswith("5 of 5 devices of phase 1 failed")


def test_a_phase_without_enough_success_waits_for_a_person():
    """Resumed, it goes on all the same, if its failures are named: also those that were forgiven before."""
    rollout = begun(error_percent=50.0)
    counts = (Counts(succeeded=8, failed=2), Counts(pending=90), Counts(pending=900))
    paused = judge(rollout, counts, NOW)
    assert (paused.state, paused.cause) == (RolloutState.PAUSED, Cause.SUCCESS)
    assert paused.reason == "8 of 10 devices of phase 1 succeeded: less than 95 %, the success threshold"
    assert to_forgive(attrs.evolve(paused, forgiven=counts), counts) == 2
    again = judge(advance(paused, ResumeRequested(counts), now=NOW), counts, NOW)
    assert (again.state, again.phase, again.reason) == (RolloutState.PAUSED, 0, paused.reason)
    resumed = judge(advance(paused, ResumeRequested(counts, forgive=True), now=NOW), counts, NOW)
    assert (resumed.state, resumed.phase) == (RolloutState.RUNNING, 1)


@given(standings(), st.lists(st.sampled_from([PauseRequested, ResumeRequested]), max_size=8))
def test_no_number_of_clicks_carries_failures_into_the_next_phase(standing, clicks):
    """A phase that ends by resumes without forgiving, and not by the judge alone, has no failures."""
    rollout, counts, now = standing
    alone = judge(attrs.evolve(rollout, state=RolloutState.RUNNING, cause=None, reason=""), counts, now)
    clicked = judge(rollout, counts, now)
    for click in clicks:
        event = ResumeRequested(counts) if click is ResumeRequested else click()
        clicked = judge(advance(clicked, event, now=now), counts, now)
    for phase in range(max(alone.phase, rollout.phase), clicked.phase):
        assert not counts[phase].failed


def test_a_pause_does_not_count_as_waiting():
    """A phase keeps when it began; offline devices are waited for from the last resume, and on any clock."""
    rollout = attrs.evolve(begun(offline_wait=100), state=RolloutState.PAUSED, cause=Cause.REQUEST)
    resumed = advance(rollout, ResumeRequested(rollout.counts), now=NOW + 500)
    retried = advance(rollout, RetryRequested(), now=NOW + 500)
    for each in (resumed, retried):
        assert (each.phase_started, each.resumed) == ((NOW,), NOW + 500)
        assert offline_deadline(each, 0) == NOW + 600
        assert next_look(each, each.counts, NOW + 500, ready=False) == NOW + 600
        assert (each.moved(7.0).resumed, each.moved(7.0).newest_time) == (NOW + 507, NOW + 507)
    assert offline_deadline(rollout, 0) == NOW + 100
    begun_later = judge(resumed, (Counts(succeeded=10), *begun().counts[1:]), NOW + 550)
    assert offline_deadline(begun_later, 1) == NOW + 650


def test_the_most_frequent_failures_are_kept():
    """In a device's own words, cut where they are long; five of them."""
    found = most_frequent(["Invalid CRC"] * 6 + ["x" * 1000] * 2 + [f"reason {n}" for n in range(20)])
    assert [(each.reason, each.devices) for each in found[:2]] == [("Invalid CRC", 6), ("x" * 200, 2)]
    assert len(found) == 5


def test_a_phase_without_a_device_shows_nothing():
    """All skipped: it does not go on by itself."""
    counts = (Counts(skipped=10), Counts(pending=90), Counts(pending=900))
    paused = judge(begun(), counts, NOW)
    assert paused.state is RolloutState.PAUSED
    assert paused.reason == "no device of phase 1 had the chance to take the image, 10 were skipped"


def test_failed_devices_get_another_try():
    """In the next round they are pending again, without being written anew; the others stay as they are."""
    rollout = begun()
    failed, done = (Member(device="d", outcome=each) for each in (Outcome.FAILED, Outcome.SUCCEEDED))
    again = advance(in_state(RolloutState.PAUSED, forgiven=(NOBODY,)), RetryRequested(), now=NOW)
    assert (again.state, again.round, again.forgiven) == (RolloutState.RUNNING, 2, ())
    assert [each.outcome(failed) for each in (rollout, again)] == [Outcome.FAILED, Outcome.PENDING]
    assert again.outcome(attrs.evolve(failed, round=2)) is Outcome.FAILED
    assert again.outcome(done) is Outcome.SUCCEEDED
    assert again.outcome(None) is Outcome.PENDING


# Phases, order, ids


@given(st.integers(1, MAX_MEMBERS), st.lists(st.floats(0.01, 99.9), max_size=5))
def test_phases_are_cuts(members, percents):
    """Together they are all devices; the first has one at least, and no phase more than its percent, rounded up."""
    phases = (*sorted(set(percents)), 100.0)
    rollout = begun(members, phases=phases)
    assert sum(each.total for each in rollout.counts) == rollout.members == members
    assert rollout.counts[0].total >= 1
    for percent, end in zip(phases, rollout.ends, strict=True):
        assert 0 <= end - members * percent / 100 < 1


@given(st.sets(st.text("abc123", min_size=1, max_size=8), max_size=50), st.sets(st.text("abc123", min_size=1)))
def test_the_same_devices_are_always_first(devices, others):
    """Whatever else is selected, and in whatever order: of two devices, the same one comes first."""
    alone = ordered("alice", devices)
    assert sorted(alone) == sorted(devices)
    together = ordered("alice", devices | others)
    assert [each for each in together if each in devices] == alone


def test_the_first_are_not_the_same_in_every_account():
    """The order depends on both."""
    devices = [f"d{n}" for n in range(50)]
    assert ordered("alice", devices) != ordered("bob", devices)


def test_ids_of_updates():
    """The same for the same attempt of the same device, else another."""
    ids = {update_id(r, d, a) for r, d, a in product(("rol_a", "rol_b"), ("d1", "d2"), (1, 2))}
    assert len(ids) == 8
    assert update_id("rol_a", "d1", 1) in ids


@pytest.mark.parametrize("members", [0, MAX_MEMBERS + 1])
def test_a_rollout_has_devices(members):
    """At least one, and not more than can be driven."""
    with pytest.raises(InvalidInput, match="devices"):
        begun(members)


# Outcomes


@every_row("state", sorted(ota.UPDATE_ENDS))
@every_row("started", [None, NOW])
@every_row("paused", [True, False])
def test_every_end_of_an_update_is_an_outcome(state, started, paused):
    """Success only where the device runs the image; what never began says nothing about the image."""
    update = attrs.evolve(ota.Update.queued("u", IMAGE, now=NOW), state=state, started=started, reason="so it is")
    member = Member(device="d", outcome=Outcome.UPDATING)
    after = settled(member, update, RolloutState.PAUSED if paused else RolloutState.RUNNING, now=NOW)
    success = state in (ota.UpdateState.COMMITTED, ota.UpdateState.ALREADY_INSTALLED)
    assert (after.outcome is Outcome.SUCCEEDED) == success
    assert success or after.reason == f"{state}: so it is"
    if state is ota.UpdateState.TIMED_OUT:
        assert after.outcome is (Outcome.SKIPPED if started is None else Outcome.FAILED)
    if state is ota.UpdateState.CANCELED:
        assert after.outcome is (Outcome.PENDING if paused and started is None else Outcome.SKIPPED)


def test_a_rollout_is_stored_and_read():
    """Whole, and what is not one is refused."""
    rollout = judge(begun(window=Window(60, 120, (5,))), (Counts(succeeded=10), *begun().counts[1:]), NOW)
    assert Rollout.from_stored(rollout.to_stored()) == rollout
    with pytest.raises(InvalidInput, match="not a stored rollout"):
        Rollout.from_stored({"id": 1})


# Which devices may begin


def test_no_more_at_the_same_time_than_the_plan_says():
    """What is under way counts, and a decision is no larger than a batch."""
    rollout = begun(rate=None, max_active=50)
    assert budget(rollout, (Counts(pending=1000),), NOW) == BATCH
    assert budget(rollout, (Counts(updating=30), Counts(updating=15)), NOW) == 5
    assert budget(rollout, (Counts(updating=50),), NOW) == 0
    for state in set(RolloutState) - {RolloutState.RUNNING}:
        assert budget(attrs.evolve(rollout, state=state), (NOBODY,), NOW) == 0


@given(st.integers(1, 6000), st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_the_rate_is_kept(rate, pauses):
    """However often one asks: in any minute no more begin than the rate, and what one second may have."""
    rollout, now, starts = begun(rate=rate, max_active=10_000), NOW, []
    for pause in pauses:
        now += pause
        number = budget(rollout, (NOBODY,), now)
        rollout = claim(rollout, number, now)
        starts.append((now, number))
    for first, _ in starts:
        within = sum(number for time, number in starts if first <= time < first + 60)
        assert within <= rate + rate / 60 + 2


def test_a_rate_lets_all_begin():
    """Looking again whenever it says, 100 devices at 60 a minute take 100 seconds."""
    rollout, now, left = begun(rate=60), NOW, 100
    while left:
        number = min(left, budget(rollout, (NOBODY,), now))
        rollout, left = claim(rollout, number, now), left - number
        now = max(now, next_look(rollout, rollout.counts, now, ready=True))
    assert 98 <= now - NOW <= 101


def at(day, time):
    """A time of the week of 2026-06-01, a Monday, in Unix seconds."""
    hours, minutes = map(int, time.split(":"))
    return (datetime(2026, 6, 1, tzinfo=UTC) + timedelta(days=day, hours=hours, minutes=minutes)).timestamp()


NIGHTS = Window(22 * 60, 4 * 60, (4, 6))
"""From Friday and Sunday evening into the next morning."""


@pytest.mark.parametrize(
    ("time", "opens"),
    [
        (at(4, "21:59"), at(4, "22:00")),
        (at(4, "22:00"), at(4, "22:00")),
        (at(5, "03:59"), at(5, "03:59")),
        (at(5, "04:00"), at(6, "22:00")),
        (at(5, "23:00"), at(6, "22:00")),
        (at(7, "03:00"), at(7, "03:00")),
        (at(0, "03:00"), at(0, "03:00")),
        (at(0, "04:00"), at(4, "22:00")),
    ],
)
def test_a_window_over_midnight(time, opens):
    """It belongs to the day on which it starts, also from Sunday to Monday."""
    assert NIGHTS.opens(time) == opens
    assert NIGHTS.contains(time) == (opens == time)
    rollout = begun(window=NIGHTS)
    assert bool(budget(rollout, (NOBODY,), time)) == (opens == time)


@given(
    st.integers(0, 1439),
    st.integers(1, 1440),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 4_000_000_000),
)
def test_windows(start, end, days, now):
    """It opens within a week, is open then, and was not a second before."""
    assume(start != end)
    window = Window(start, end, tuple(sorted(days)))
    opens = window.opens(now)
    assert now <= opens <= now + 7 * 86_400
    assert window.contains(opens)
    if opens > now:
        assert not window.contains(opens - 1)
        moment = datetime.fromtimestamp(opens, UTC)
        assert (moment.hour * 60 + moment.minute, moment.weekday() in days) == (start, True)


def test_offline_devices_have_until_their_phase_s_own_deadline():
    """And it is looked at then."""
    rollout = begun(offline_wait=3600.0)
    assert offline_deadline(rollout, 0) == NOW + 3600
    assert next_look(rollout, rollout.counts, NOW, ready=False) == NOW + 3600
    assert next_look(rollout, rollout.counts, NOW + 3600, ready=False) == deadline(rollout)
    assert next_look(rollout, (NOBODY, *rollout.counts[1:]), NOW, ready=False) == deadline(rollout)


# What people ask for


def test_a_request_with_nothing_but_a_filter():
    """Has safe defaults, and approves itself."""
    request = parse_request({"filter": ["arch=esp32"]})
    assert request.plan.options.auto_commit
    assert request.plan == Plan(options=ota.Options(auto_commit=True))
    assert [str(term) for term in request.selection.terms] == ["arch=esp32"]


def test_a_full_request_and_back():
    """What is asked for is what is shown."""
    asked = {
        "phases": [0.5, 20, 100],
        "success_percent": 99.0,
        "error_percent": 0.0,
        "min_sample": 1,
        "rate": None,
        "max_active": 7,
        "window": {"start": "22:30", "end": "24:00", "days": ["sat", "sun"]},
        "offline_wait": 0.0,
        "timeout": 3600.0,
        "approval": True,
        "auto_commit": False,
        "commit_after": 30,
        "commit_timeout": 0,
        "force": True,
        "other_app": True,
    }
    request = parse_request({**asked, "name": "to the halls", "devices": ["a", "b"]})
    assert request.name == "to the halls"
    assert request.selection.devices == {"a", "b"}
    shown = describe_plan(request.plan)
    assert {name: list(each) if isinstance(each, tuple) else each for name, each in shown.items()} == asked


def test_a_bulk_update_is_a_rollout_with_one_phase():
    """All devices at the same time, as far as a rate and their number allow; other members are those of a rollout."""
    request = parse_request({"kind": "bulk", "devices": ["a"], "max_active": 7, "force": True})
    plan = request.plan
    assert (request.kind, plan.phases, plan.rate, plan.max_active, plan.approval) == ("bulk", (100,), None, 7, False)
    assert plan.options.force is True
    assert parse_request({"kind": "bulk", "devices": ["a"], "rate": 5}).plan.rate == 5
    assert parse_request({"kind": "rollout", "all": True}) == parse_request({"all": True})


@given(standings())
def test_a_bulk_update_stops_at_no_failures(standing):
    """Whatever its numbers: it runs until all devices have ended."""
    _, counts, now = standing
    whole = added(counts)
    plan = parse_request({"kind": "bulk", "all": True, "timeout": 90 * 86_400}).plan
    bulk = Rollout.begun("rol_a", "fw", IMAGE, plan, (), whole.total, now=NOW, kind=RolloutKind.BULK)
    wanted = RolloutState.COMPLETED if whole.all_ended else RolloutState.RUNNING
    assert judge(bulk, (whole,), now).state is wanted
    assert Rollout.from_stored(bulk.to_stored()) == bulk


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([], "JSON object"),
        ({"all": True, "kind": "big"}, "kind is one of rollout, bulk"),
        ({"all": True, "kind": ["bulk"]}, "kind is one of rollout, bulk"),
        ({"all": True, "kind": "bulk", "phases": [100]}, "leave out phases"),
        ({"all": True, "kind": "bulk", "approval": False}, "leave out approval"),
        ({"all": True, "kind": "bulk", "error_percent": 5}, "leave out error_percent"),
        ({}, "devices or a filter"),
        ({"filter": []}, 'for every device say "all": true'),
        ({"filter": [], "devices": None, "all": False}, "devices or a filter"),
        ({"all": True, "filter": ["online"]}, "all selects every device"),
        ({"all": True, "devices": ["d1"]}, "all selects every device"),
        ({"all": 1}, "all is true or false"),
        ({"all": True, "colour": 1}, "unknown member 'colour'"),
        ({"filter": ["x"]}, "FIELD=VALUE"),
        ({"filter": "online"}, "list of terms"),
        ({"devices": []}, "ids"),
        *(({"all": True, "phases": each}, "phases") for each in ([], [100, 10], [0, 100], [50], [True, 100], 100)),
        ({"all": True, "phases": [*range(1, 17), 100]}, "1 to 16"),
        ({"all": True, "success_percent": 101}, "success_percent is a number from 0 to 100"),
        ({"all": True, "error_percent": "1"}, "error_percent"),
        ({"all": True, "error_percent": 10**400}, "error_percent"),
        ({"all": True, "phases": [1, 10**400]}, "phases"),
        ({"all": True, "min_sample": 0}, "min_sample"),
        ({"all": True, "rate": 0}, "rate"),
        ({"all": True, "max_active": 1.5}, "max_active"),
        ({"all": True, "window": {"start": "22:00"}}, "a window is"),
        ({"all": True, "window": {"start": "22:00", "end": "22:00"}}, "does not end when it starts"),
        ({"all": True, "window": {"start": "24:00", "end": "22:00"}}, "starts before 24:00"),
        ({"all": True, "window": {"start": "25:00", "end": "22:00"}}, "times of the day"),
        ({"all": True, "window": {"start": "24:01", "end": "22:00"}}, "times of the day"),
        ({"all": True, "window": {"start": "1:00", "end": "22:00", "days": []}}, "times of the day"),
        ({"all": True, "window": {"start": "01:00", "end": "22:00", "days": ["soon"]}}, "days of a window"),
        ({"all": True, "offline_wait": -1}, "offline_wait"),
        ({"all": True, "timeout": 1e9}, "timeout"),
        ({"all": True, "approval": "yes"}, "approval is true or false"),
        ({"all": True, "commit_timeout": -1}, "commit_timeout"),
        (
            {"all": True, "commit_after": 300},
            "commit_after is 300 s, and has to be below commit_timeout, which is 300 s",
        ),
        ({"all": True, "name": 5}, "a name is text"),
    ],
)
def test_a_request_that_cannot_be(asked, words):
    """It is refused, and the error names what is wrong."""
    with pytest.raises(InvalidInput, match=words):
        parse_request(asked)


# What a device waits for


@every_row(
    ("state", "online", "what"),
    [
        (None, True, WaitKind.TURN),
        (None, False, WaitKind.OFFLINE),
        (ota.UpdateState.QUEUED, True, WaitKind.TURN),
        (ota.UpdateState.QUEUED, False, WaitKind.OFFLINE),
        (ota.UpdateState.TRANSFERRING, True, WaitKind.TRANSFER),
        (ota.UpdateState.TRANSFERRING, False, WaitKind.OFFLINE),
        (ota.UpdateState.VERIFYING, True, WaitKind.REBOOT),
        (ota.UpdateState.REBOOTING, False, WaitKind.REBOOT),
        (ota.UpdateState.UNCOMMITTED, True, WaitKind.TRIAL),
        (ota.UpdateState.UNCOMMITTED, False, WaitKind.TRIAL),
    ],
)
def test_what_a_device_waits_for_in_its_update(state, online, what):
    """In each state that is no end; on trial it is said until when."""
    found = waiting_update(state, online=online, commit_by=NOW)
    assert (found.what, found.until) == (what, NOW if what is WaitKind.TRIAL else None)


def test_after_its_update_a_device_waits_for_nothing():
    """In no end of an update."""
    assert {waiting_update(state, online=True, commit_by=None) for state in ota.UPDATE_ENDS} == {None}


MONDAY_NOON = at(0, "12:00")


@every_row(
    ("fields", "phase", "told", "what", "until"),
    [
        ({"state": RolloutState.AWAITING_APPROVAL}, 0, {}, WaitKind.APPROVAL, None),
        ({"state": RolloutState.PAUSED}, 0, {"online": False}, WaitKind.RESUME, None),
        ({"state": RolloutState.ABORTING}, 0, {}, WaitKind.END, None),
        ({}, 1, {}, WaitKind.PHASE, None),
        ({}, 0, {"online": False}, WaitKind.OFFLINE, MONDAY_NOON + 7 * 86_400),
        ({"resumed": MONDAY_NOON + 9}, 0, {"online": False}, WaitKind.OFFLINE, MONDAY_NOON + 7 * 86_400 + 9),
        ({"plan": Plan(window=NIGHTS)}, 0, {}, WaitKind.WINDOW, at(4, "22:00")),
        ({"plan": Plan(window=NIGHTS)}, 0, {"wall": at(4, "23:00")}, WaitKind.TURN, None),
        ({}, 0, {"updating": True}, WaitKind.OTHER_UPDATE, None),
        ({"next_start": MONDAY_NOON + 2}, 0, {}, WaitKind.TURN, MONDAY_NOON + 2),
        ({"plan": Plan(rate=None)}, 0, {}, WaitKind.TURN, None),
    ],
)
def test_what_a_device_waits_for_before_its_turn(fields, phase, told, what, until):
    """What comes first of all that it waits for, and until when, if that is known."""
    rollout = attrs.evolve(begun(now=MONDAY_NOON), **fields)
    given = {"online": True, "updating": False, "now": MONDAY_NOON, "wall": MONDAY_NOON} | told
    found = waiting_turn(rollout, phase, **given)
    assert (found.what, found.until) == (what, until)
