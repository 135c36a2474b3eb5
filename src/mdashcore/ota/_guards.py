"""The guards of the machine: the conditions that it checks before a transition.

Each function takes (update, event, now). Its docstring labels the arrow in the drawing, so it has no subject. The
event has the type of its row.
"""

from __future__ import annotations

from typing import Any

from mdashcore.ota._builds import Build
from mdashcore.ota._events import BuildReported, Status, StepTimedOut
from mdashcore.ota._fit import Fit, fit
from mdashcore.ota._reports import ErrorMeaning, Runs, judge, lacks_method, runs, same, taken
from mdashcore.ota._steps import Ask, Begin, Commit, Write, awaited, next_step, time_limit
from mdashcore.ota._values import Session, Update

MAX_QUESTIONS = 40  # to a connected device that does not say what it runs: 20 minutes of questions

BEGIN_TRIES = 10  # OTA.Begins in a row without an answer, until the next one prolongs a wait no more: a device that
# crashes at each, and erases its flash before, does not get it for ever

STATUS_TRIES = 3  # failures of OTA.Status until the device counts as one that never answers it

REBOOT_GRACE = 10.0  # seconds on a new link; an old build is then final: a device reboots after 0.5

COMMIT_MARGIN = 10.0  # seconds on top of the commit time-out: the device's clock differs

BUSY_MARGIN = 10.0  # seconds on top of the time after which a device forgets a transfer: its clock differs


def installed(u: Update, e: Any, now: float) -> bool:
    """runs this build already"""
    return fit(u.image, e.build or Build(), u.options) is Fit.INSTALLED


def other_platform(u: Update, e: Any, now: float) -> bool:
    """has another platform"""
    return fit(u.image, e.build or Build(), u.options) is Fit.OTHER_PLATFORM


def other_app(u: Update, e: Any, now: float) -> bool:
    """has another application"""
    return fit(u.image, e.build or Build(), u.options) is Fit.OTHER_APP


def away(u: Update, e: Any, now: float) -> bool:
    """not connected any more"""
    return not u.connected


def says_enough(u: Update, e: Any, now: float) -> bool:
    """says what it runs, or was asked"""
    image, build = u.image, e.build
    compared = ((image.build_id, build.id), (image.platform, build.platform), (image.app, build.app))
    named = build.id is not None or build.version is not None
    return e.asked or (named and all(said is not None for wanted, said in compared if wanted is not None))


def says_same_build(u: Update, e: Any, now: float) -> bool:
    """says: same build"""
    return judge(e.message) is ErrorMeaning.SAME_BUILD


def says_wrong_platform(u: Update, e: Any, now: float) -> bool:
    """says: wrong platform"""
    return judge(e.message) is ErrorMeaning.WRONG_PLATFORM


def may_repeat_chunk(u: Update, e: Any, now: float) -> bool:
    """OTA.Write, tries left"""
    if e.method != Write.method or u.chunk_failures + 1 >= u.options.chunk_attempts:
        return False
    return not u.image.bare if isinstance(e, StepTimedOut) else judge(e.message) is not ErrorMeaning.BAD_IMAGE


def attempts_left(u: Update, e: Any, now: float) -> bool:
    """attempts left"""
    return u.attempt < u.options.max_attempts


def worth_beginning_again(u: Update, e: Any, now: float) -> bool:
    """not the image's fault, attempts left"""
    return attempts_left(u, e, now) and u.doubtful


def holds_transfer(u: Update, e: Any, now: float) -> bool:
    """OTA.Begin: holds a transfer already"""
    if e.method != Begin.method:
        return False
    # A device that had a transfer open just now, and answers what cannot be read, most likely says that.
    likely = not e.readable and u.held_until is not None and now < u.held_until
    return judge(e.message) is ErrorMeaning.BUSY or likely


def holds_ours(u: Update, e: Any, now: float) -> bool:
    """OTA.Begin: holds the transfer that was lost"""
    return holds_transfer(u, e, now) and u.session is Session.UNSURE and not u.image.bare


def may_still_forget(u: Update, e: Any, now: float) -> bool:
    """OTA.Begin: holds a transfer, and may still forget it"""
    return holds_transfer(u, e, now) and (u.waits_until is None or now < u.waits_until)


def waits_for_device(u: Update, e: Any, now: float) -> bool:
    """waits until the device has forgotten a transfer"""
    return u.waits_until is not None


def begin_unanswered(u: Update, e: Any, now: float) -> bool:
    """OTA.Begin, and the device may hold an earlier transfer"""
    # Neither OTA.Status nor a refusal could tell that one from the transfer that this OTA.Begin may have begun.
    if awaited(u) != Begin.method or u.session is not Session.NONE:
        return False
    # Nor does the time after which devices forget a transfer: some never do.
    return u.waits_until is not None or u.held_until is not None


def begin_silent(u: Update, e: Any, now: float) -> bool:
    """OTA.Begin, and the device may hold an earlier transfer; tries left"""
    return begin_unanswered(u, e, now) and u.questions + 1 < u.options.max_attempts


def asked_in_vain(u: Update, e: Any, now: float) -> bool:
    """says nothing at all"""
    return bool(e.method == Ask.method)


def begun_once_too_often(u: Update, e: Any, now: float) -> bool:
    """the transfer was lost, no attempts left"""
    return u.session is Session.UNSURE and not attempts_left(u, e, now)


def may_have_begun(u: Update, e: Any, now: float) -> bool:
    """OTA.Begin, attempts left"""
    return e.method == Begin.method and attempts_left(u, e, now)


def chunk_at_offset(u: Update, e: Any, now: float) -> bool:
    """the chunk asked for"""
    return Write(e.offset, e.size) == next_step(u)


def last_chunk(u: Update, e: Any, now: float) -> bool:
    """the last chunk"""
    return chunk_at_offset(u, e, now) and e.offset + e.size == u.image.size


def transfer_still_open(u: Update, e: Any, now: float) -> bool:
    """transfer still open"""
    if awaited(u) != Ask.method or e.build.status != 1:
        return False
    offsets = taken(u, e.build)
    if u.image.bare:  # no digest would notice that the transfer is another one, or a chunk was taken twice
        return u.begun is not None and len(offsets) == 1
    return bool(offsets)


def image_all_taken(u: Update, e: Any, now: float) -> bool:
    """transfer still open, nothing missing"""
    return transfer_still_open(u, e, now) and taken(u, e.build)[0] == u.image.size


def cannot_say(u: Update, e: Any, now: float) -> bool:
    """cannot say whether it holds the transfer"""
    return awaited(u) == Ask.method and e.build.status is None and _never_says(u, e)


def _never_says(u: Update, e: Any) -> bool:
    """Return whether the device will never say a member that is missing in its answer to `OTA.Status`."""
    if e.status is Status.FAILED:
        return u.questions + 1 >= STATUS_TRIES
    return bool(e.asked)


def transfer_lost(u: Update, e: Any, now: float) -> bool:
    """transfer lost"""
    return awaited(u) == Ask.method and e.build.status is not None


def may_begin_anew(u: Update, e: Any, now: float) -> bool:
    """transfer lost, attempts left"""
    return transfer_lost(u, e, now) and attempts_left(u, e, now)


def asked(u: Update, e: Any, now: float) -> bool:
    """was asked"""
    return bool(e.asked)


def status_missing(u: Update, e: Any, now: float) -> bool:
    """OTA.Status failed"""
    return awaited(u) == Ask.method and asked(u, e, now)


def asked_enough(u: Update, e: Any, now: float) -> bool:
    """was asked too often"""
    return u.questions >= MAX_QUESTIONS and (not isinstance(e, BuildReported) or asked(u, e, now))


def says_failed(u: Update, e: Any, now: float) -> bool:
    """says that it failed"""
    return bool(e.build.status == 2) and runs(u, e.build) is not Runs.NEW


def end_not_taken(u: Update, e: Any, now: float) -> bool:
    """came back, image taken, OTA.End not"""
    return u.reconnected and attempts_left(u, e, now) and not_rebooted(u, e, now) and e.build.status == 1


def not_rebooted(u: Update, e: Any, now: float) -> bool:
    """not rebooted yet"""
    old = u.previous_build or Build()
    if not u.reconnected:
        return True
    return e.build.status in (1, 3) and same(e.build.id, old.id, e.build.version, old.version) is not False


def new_uncommitted(u: Update, e: Any, now: float) -> bool:
    """new build, not committed"""
    return runs(u, e.build) is Runs.NEW and e.build.is_committed is False


def new_committed(u: Update, e: Any, now: float) -> bool:
    """new build, committed"""
    return runs(u, e.build) is Runs.NEW and e.build.is_committed is True


def new_unknown(u: Update, e: Any, now: float) -> bool:
    """new build, cannot say whether committed"""
    return runs(u, e.build) is Runs.NEW and e.build.is_committed is None and _never_says(u, e)


def new_settled(u: Update, e: Any, now: float) -> bool:
    """new build, OTA.Commit was accepted or is not there, or the device commits by itself"""
    return new_unknown(u, e, now) and (u.commit_settled or u.options.commit_timeout == 0)


def kept(u: Update, e: Any, now: float) -> bool:
    """new build, still there after its commit time-out"""
    if not u.commit_unknown or not asked(u, e, now) or runs(u, e.build) is not Runs.NEW:
        return False
    if e.build.is_committed is False:  # it could not say so before
        return False
    return u.commit_settled or now >= u.changed + u.unattended + u.options.commit_timeout + COMMIT_MARGIN


def trial_unknown(u: Update, e: Any, now: float) -> bool:
    """cannot say whether committed"""
    return u.commit_unknown


def no_trial(u: Update, e: Any, now: float) -> bool:
    """cannot say whether committed, on the link it reported on"""
    return u.commit_unknown and not u.reconnected


def commit_refused_for_good(u: Update, e: Any, now: float) -> bool:
    """cannot say whether committed; has no OTA.Commit, or says that it is committed"""
    if not u.commit_unknown or e.method != Commit.method:
        return False
    return lacks_method(e.code, e.message) or "already committed" in e.message.lower()


def back(u: Update, e: Any, now: float) -> bool:
    """on the link after the reboot"""
    return u.reconnected


def healthy(u: Update, e: Any, now: float) -> bool:
    """auto-commit: there for long enough, and answers"""
    if not u.options.auto_commit or u.online_since is None or not e.answered:
        return False
    is_on_trial = e.build.is_committed is False or not u.reconnected or u.commit_unknown
    return is_on_trial and runs(u, e.build) is Runs.NEW and now >= u.online_since + u.options.commit_after


def old_unasked(u: Update, e: Any, now: float) -> bool:
    """the build it had, not a word of the transfer"""
    return runs(u, e.build) is Runs.OLD and e.build.status is None and not asked(u, e, now)


def old_end_unsure(u: Update, e: Any, now: float) -> bool:
    """the build it had, cannot say whether OTA.End was taken"""
    unsure = runs(u, e.build) is Runs.OLD and e.build.status is None and not u.end_accepted
    return unsure and attempts_left(u, e, now)


def old_too_early(u: Update, e: Any, now: float) -> bool:
    """the build it had, may be yet to reboot"""
    if runs(u, e.build) is not Runs.OLD or e.build.status is not None:
        return False
    return not _never_says(u, e) or u.online_since is None or now < u.online_since + REBOOT_GRACE


def old_build(u: Update, e: Any, now: float) -> bool:
    """the build it had"""
    return runs(u, e.build) is Runs.OLD


def on_same_link(u: Update, e: Any, now: float) -> bool:
    """on the link it reported on"""
    return not u.reconnected


def another_build(u: Update, e: Any, now: float) -> bool:
    """neither the old nor the new build"""
    return runs(u, e.build) is Runs.ANOTHER


def out_of_time(u: Update, e: Any, now: float) -> bool:
    """idle or total limit"""
    limit = time_limit(u)
    return limit is not None and now >= limit


def pause_over(u: Update, e: Any, now: float) -> bool:
    """the pause is over"""
    return u.not_before is not None and now >= u.not_before
