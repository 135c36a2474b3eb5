"""The machine of an update: the table of its transitions, and the function that applies an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, get_args

import attrs

from mdashcore._checked import check_time
from mdashcore.ota import _actions as acts
from mdashcore.ota import _guards as guards
from mdashcore.ota._events import (
    ANSWERS,
    BeginAccepted,
    BuildReported,
    CancelRequested,
    ChunkAccepted,
    CommitAccepted,
    CommitRequested,
    CommitUnsupported,
    DeviceConnected,
    DeviceDisconnected,
    EndAccepted,
    NewerUpdateQueued,
    RevertAccepted,
    Started,
    StepFailed,
    StepTimedOut,
    TransferEnded,
    UpdateDeadlinePassed,
    UpdateEvent,
)
from mdashcore.ota._steps import awaited
from mdashcore.ota._times import resumed
from mdashcore.ota._values import UPDATE_ENDS, Update, UpdateState

Guard: TypeAlias = Callable[[Update, Any, float], bool]
UpdateAction: TypeAlias = Callable[[Update, Any, float], dict[str, Any]]


@attrs.frozen
class UpdateTransition:
    """One arrow of the machine."""

    to: UpdateState
    when: Guard | None = None
    """The condition; `None` for an arrow that is always taken."""
    do: UpdateAction | None = None
    """The action, which returns the other fields that change."""
    quiet: bool = False
    """Whether the transition is no progress: the idle limit keeps counting."""

    @property
    def label(self) -> str:
        """The guard in words, for a drawing; empty without a guard."""
        return (self.when.__doc__ or "") if self.when is not None else ""


def _table() -> dict[tuple[UpdateState, type], tuple[UpdateTransition, ...]]:
    s, t = UpdateState, UpdateTransition
    return {
        (s.QUEUED, Started): (
            t(s.ALREADY_INSTALLED, guards.installed, acts.runs_it),
            t(s.REJECTED, guards.other_platform, acts.not_for_it),
            t(s.REJECTED, guards.other_app, acts.not_its_app),
            t(s.TRANSFERRING, do=acts.start),
        ),
        (s.QUEUED, BuildReported): (
            t(s.QUEUED, guards.away, quiet=True),
            t(s.ALREADY_INSTALLED, guards.installed, acts.runs_it),
            t(s.REJECTED, guards.other_platform, acts.not_for_it),
            t(s.REJECTED, guards.other_app, acts.not_its_app),
            t(s.TRANSFERRING, guards.says_enough, acts.start),
        ),
        (s.QUEUED, StepFailed): (t(s.TRANSFERRING, do=acts.start_unknown),),
        (s.QUEUED, StepTimedOut): (t(s.TRANSFERRING, do=acts.start_unknown),),
        (s.QUEUED, DeviceConnected): (t(s.QUEUED, do=acts.expect_introduction),),
        (s.QUEUED, DeviceDisconnected): (t(s.QUEUED, do=acts.disconnect),),
        (s.QUEUED, CancelRequested): (t(s.CANCELED, do=acts.because),),
        (s.QUEUED, NewerUpdateQueued): (t(s.SUPERSEDED, do=acts.because),),
        (s.QUEUED, UpdateDeadlinePassed): (
            t(s.TIMED_OUT, guards.out_of_time, acts.run_out),
            t(s.QUEUED, guards.pause_over, acts.resume, quiet=True),
        ),
        (s.TRANSFERRING, BeginAccepted): (
            t(s.FAILED, guards.begun_once_too_often, acts.because),
            t(s.TRANSFERRING, do=acts.open_transfer),
        ),
        (s.TRANSFERRING, ChunkAccepted): (
            t(s.VERIFYING, guards.last_chunk, acts.take_chunk),
            t(s.TRANSFERRING, guards.chunk_at_offset, acts.take_chunk),
        ),
        (s.TRANSFERRING, StepFailed): (
            t(s.ALREADY_INSTALLED, guards.says_same_build, acts.because),
            t(s.REJECTED, guards.says_wrong_platform, acts.because),
            t(s.TRANSFERRING, guards.holds_ours, acts.go_on_unsaid),
            t(s.TRANSFERRING, guards.may_still_forget, acts.await_device, quiet=True),
            t(s.FAILED, guards.holds_transfer, acts.never_forgot),
            t(s.TRANSFERRING, guards.asked_in_vain, acts.probe),
            t(s.TRANSFERRING, guards.may_repeat_chunk, acts.repeat_chunk, quiet=True),
            t(s.TRANSFERRING, guards.worth_beginning_again, acts.begin_again),
            t(s.FAILED, do=acts.because),
        ),
        (s.TRANSFERRING, StepTimedOut): (
            t(s.TRANSFERRING, guards.may_repeat_chunk, acts.repeat_chunk, quiet=True),
            t(s.TRANSFERRING, guards.begin_silent, acts.await_begun, quiet=True),
            t(s.TIMED_OUT, guards.begin_unanswered, acts.give_up),
            t(s.TRANSFERRING, guards.may_have_begun, acts.doubt_begin, quiet=True),
            t(s.TRANSFERRING, guards.attempts_left, acts.begin_again),
            t(s.TIMED_OUT, do=acts.give_up),
        ),
        (s.TRANSFERRING, DeviceConnected): (
            t(s.TRANSFERRING, guards.begin_unanswered, acts.await_begun, quiet=True),
            t(s.TRANSFERRING, guards.waits_for_device, acts.try_now, quiet=True),
            t(s.TRANSFERRING, do=acts.lose_link),
        ),
        (s.TRANSFERRING, DeviceDisconnected): (
            t(s.TRANSFERRING, guards.begin_unanswered, acts.await_begun, quiet=True),
            t(s.TRANSFERRING, guards.waits_for_device, acts.disconnect, quiet=True),
            t(s.TRANSFERRING, do=acts.lose_link),
        ),
        (s.TRANSFERRING, TransferEnded): (t(s.TRANSFERRING, guards.waits_for_device, acts.try_soon, quiet=True),),
        (s.TRANSFERRING, NewerUpdateQueued): (t(s.SUPERSEDED, guards.waits_for_device, acts.give_up),),
        (s.TRANSFERRING, BuildReported): (
            t(s.VERIFYING, guards.image_all_taken, acts.go_on),
            t(s.TRANSFERRING, guards.transfer_still_open, acts.go_on),
            t(s.TRANSFERRING, guards.cannot_say, acts.probe),
            t(s.TRANSFERRING, guards.may_begin_anew, acts.begin_again),
            t(s.FAILED, guards.transfer_lost, acts.because),
            t(s.TRANSFERRING, guards.status_missing, acts.ask_later, quiet=True),
        ),
        (s.TRANSFERRING, CancelRequested): (t(s.CANCELED, do=acts.give_up),),
        (s.TRANSFERRING, UpdateDeadlinePassed): (
            t(s.TIMED_OUT, guards.out_of_time, acts.run_out),
            t(s.TRANSFERRING, guards.pause_over, acts.resume, quiet=True),
        ),
        (s.VERIFYING, EndAccepted): (t(s.REBOOTING, do=acts.await_reboot),),
        (s.VERIFYING, StepFailed): (
            t(s.ALREADY_INSTALLED, guards.says_same_build, acts.because),
            t(s.REJECTED, guards.says_wrong_platform, acts.because),
            t(s.TRANSFERRING, guards.worth_beginning_again, acts.begin_again),
            t(s.FAILED, do=acts.because),
        ),
        (s.VERIFYING, StepTimedOut): (t(s.REBOOTING, do=acts.await_reboot),),
        (s.VERIFYING, DeviceConnected): (t(s.REBOOTING, do=acts.await_reboot),),
        (s.VERIFYING, DeviceDisconnected): (t(s.REBOOTING, do=acts.await_reboot),),
        (s.VERIFYING, UpdateDeadlinePassed): (t(s.REBOOTING, guards.out_of_time, acts.await_reboot),),
        (s.REBOOTING, DeviceConnected): (t(s.REBOOTING, do=acts.come_back),),
        (s.REBOOTING, DeviceDisconnected): (t(s.REBOOTING, do=acts.go_away),),
        (s.REBOOTING, BuildReported): (
            t(s.FAILED, guards.says_failed, acts.because),
            t(s.VERIFYING, guards.end_not_taken, acts.end_again),
            t(s.REBOOTING, guards.not_rebooted, acts.ask_later, quiet=True),
            t(s.UNCOMMITTED, guards.new_uncommitted, acts.await_commit),
            t(s.COMMITTED, guards.new_committed),
            t(s.COMMITTED, guards.new_settled),
            t(s.UNCOMMITTED, guards.new_unknown, acts.await_commit_unknown),
            t(s.REBOOTING, guards.old_unasked, quiet=True),
            t(s.VERIFYING, guards.old_end_unsure, acts.end_again),
            t(s.REBOOTING, guards.old_too_early, acts.ask_later, quiet=True),
            t(s.ROLLED_BACK, guards.old_build, acts.roll_back),
            t(s.FAILED, guards.another_build, acts.run_another),
            t(s.TIMED_OUT, guards.asked_enough, acts.run_out),
            t(s.REBOOTING, do=acts.ask_later, quiet=True),
        ),
        (s.REBOOTING, StepFailed): (
            t(s.TIMED_OUT, guards.asked_enough, acts.run_out),
            t(s.REBOOTING, do=acts.ask_later, quiet=True),
        ),
        (s.REBOOTING, StepTimedOut): (
            t(s.TIMED_OUT, guards.asked_enough, acts.run_out),
            t(s.REBOOTING, do=acts.ask_later, quiet=True),
        ),
        (s.REBOOTING, CommitAccepted): (t(s.REBOOTING, guards.back, acts.settle_commit, quiet=True),),
        (s.REBOOTING, CommitUnsupported): (t(s.REBOOTING, guards.back, acts.settle_commit, quiet=True),),
        (s.REBOOTING, UpdateDeadlinePassed): (
            t(s.TIMED_OUT, guards.out_of_time, acts.run_out),
            t(s.REBOOTING, guards.pause_over, acts.resume, quiet=True),
        ),
        (s.UNCOMMITTED, DeviceConnected): (t(s.UNCOMMITTED, do=acts.come_back),),
        (s.UNCOMMITTED, DeviceDisconnected): (t(s.UNCOMMITTED, do=acts.go_away),),
        (s.UNCOMMITTED, BuildReported): (
            t(s.COMMITTED, guards.new_committed),
            t(s.ROLLED_BACK, guards.old_build, acts.roll_back),
            t(s.FAILED, guards.another_build, acts.run_another),
            t(s.COMMITTED, guards.kept, acts.stay_kept),
            t(s.UNCOMMITTED, guards.healthy, acts.commit_healthy, quiet=True),
            t(s.UNCOMMITTED, do=acts.still_uncommitted, quiet=True),
        ),
        (s.UNCOMMITTED, CommitRequested): (t(s.UNCOMMITTED, do=acts.want_commit),),
        (s.UNCOMMITTED, CommitAccepted): (
            t(s.COMMITTED, guards.on_same_link),
            t(s.UNCOMMITTED, guards.trial_unknown, acts.settle_commit, quiet=True),
        ),
        (s.UNCOMMITTED, CommitUnsupported): (
            t(s.COMMITTED, guards.no_trial, acts.stay),
            t(s.UNCOMMITTED, guards.trial_unknown, acts.settle_commit, quiet=True),
        ),
        (s.UNCOMMITTED, RevertAccepted): (t(s.ROLLED_BACK, do=acts.roll_back),),
        (s.UNCOMMITTED, StepFailed): (
            t(s.COMMITTED, guards.commit_refused_for_good, acts.stay_committed),
            t(s.UNCOMMITTED, do=acts.commit_unsure, quiet=True),
        ),
        (s.UNCOMMITTED, StepTimedOut): (t(s.UNCOMMITTED, do=acts.commit_unsure, quiet=True),),
        (s.UNCOMMITTED, UpdateDeadlinePassed): (
            t(s.TIMED_OUT, guards.out_of_time, acts.run_out),
            t(s.UNCOMMITTED, guards.pause_over, acts.resume, quiet=True),
        ),
    }


UPDATE_TRANSITIONS: Mapping[tuple[UpdateState, type], tuple[UpdateTransition, ...]] = _table()
"""The machine: (state, kind of event) → arrows. The first one whose guard holds is taken."""


def advance(update: Update, event: UpdateEvent, *, now: float) -> Update:
    """Return the update after an event. It is the same object if the event changes nothing.

    Args:
        update: the update before the event.
        event: an instance of one of the classes in `UpdateEvent`.
        now: Unix seconds.

    Raises:
        TypeError: `update` or `event` has another type, for example a class of events in place of an instance.
        InvalidInput: `now` is no time.

    >>> from mdashcore.ota import CancelRequested, Update, UpdateImage
    >>> update = Update.queued("u1", UpdateImage(name="fw.zip", size=100_000, sha256="0" * 64), now=0.0)
    >>> advance(update, CancelRequested(), now=1.0).state
    <UpdateState.CANCELED: 'CANCELED'>
    """
    _check(update, event)
    check_time("now", now)
    if isinstance(event, DeviceDisconnected) and event.resumed and not update.ended:
        update = resumed(update, now)
    if isinstance(event, ANSWERS) and event.method != awaited(update):
        return update  # the answer is late: the update has gone on to another call
    for transition in UPDATE_TRANSITIONS.get((update.state, type(event)), ()):
        if transition.when is None or transition.when(update, event, now):
            return _take(update, transition, event, now)
    return update


_EVENTS: Final = frozenset(get_args(UpdateEvent))


def _check(update: object, event: object) -> None:
    if not isinstance(update, Update) or type(event) not in _EVENTS:
        raise TypeError(f"an Update and one of its events are needed, not {update!r:.60} and {event!r:.60}")


def can_cancel(update: Update) -> bool:
    """Return whether `CancelRequested` would end the update. After `OTA.End` it would not, because no call undoes
    that.
    """
    return (update.state, CancelRequested) in UPDATE_TRANSITIONS


def can_supersede(update: Update) -> bool:
    """Return whether a newer update may take this one's place: it has ended, or the device has got nothing of it."""
    return update.ended or advance(update, NewerUpdateQueued(), now=update.newest_time).ended


def _take(update: Update, transition: UpdateTransition, event: UpdateEvent, now: float) -> Update:
    changes: dict[str, Any] = {} if transition.quiet else {"active": now}
    if transition.to is not update.state:
        changes |= {"state": transition.to, "changed": now, "unattended": 0.0, "not_before": None}
        if transition.to in UPDATE_ENDS:
            changes |= {"reason": ""}
    if transition.do is not None:
        changes |= transition.do(update, event, now)
    result = attrs.evolve(update, **changes)
    return update if result == update else attrs.evolve(result, revision=update.revision + 1)
