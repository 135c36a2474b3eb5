"""What devices say, judged; and the guards: the questions that the machine asks before it takes an arrow."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from mdashcore.ota._events import CallTimedOut
from mdashcore.ota._steps import Ask, Begin, Write, awaited, next_step, time_limit
from mdashcore.ota._values import Build, State, Update


class Verdict(Enum):
    """What the words of a device's error mean for the update."""

    SAME_BUILD = auto()
    WRONG_PLATFORM = auto()
    BUSY = auto()
    BAD_IMAGE = auto()
    OTHER = auto()


_WORDS = (
    ("same as current", Verdict.SAME_BUILD),
    ("wrong platform", Verdict.WRONG_PLATFORM),
    ("already in progress", Verdict.BUSY),
    # Mongoose OS closes the transfer with these: the same chunk again only gets other words.
    ("invalid crc", Verdict.BAD_IMAGE),
    ("malformed archive", Verdict.BAD_IMAGE),
    ("compressed .zip", Verdict.BAD_IMAGE),
    ("manifest", Verdict.BAD_IMAGE),
)


def judge(message: str) -> Verdict:
    """What a device's error message means; devices have words for it, not codes."""
    message = message.lower()
    return next((verdict for words, verdict in _WORDS if words in message), Verdict.OTHER)


class Runs(Enum):
    """Which firmware a report speaks of."""

    NEW = auto()
    OLD = auto()
    ANOTHER = auto()
    UNKNOWN = auto()


def runs(update: Update, build: Build) -> Runs:
    """Which firmware the device runs, after the reboot, by its own report.

    Build ids are compared; versions where one side has no id. Where old and new cannot be told apart (a bare
    image, or the same build once more), only an update leaves a device uncommitted, or on another partition.
    """
    image, old = update.image, update.previous_build or Build()
    is_image = same(build.id, image.build_id, build.version, image.version)
    is_old = same(build.id, old.id, build.version, old.version)
    if is_image is False:
        return Runs.ANOTHER if is_old is False else Runs.OLD
    if (is_image and not is_old) or is_old is False or build.is_committed is False:
        return Runs.NEW
    if same(build.partition, old.partition) is False:
        return Runs.NEW
    if update.state is State.UNCOMMITTED and not update.reconnected:  # it was new, and has not rebooted since
        return Runs.NEW
    if is_old is None:
        return Runs.UNKNOWN
    if update.state is State.UNCOMMITTED:  # any reboot while uncommitted rolls back
        return Runs.OLD
    return Runs.NEW if is_image else Runs.OLD


def same(*values: object) -> bool | None:
    """Of pairs, whether the first that is known on both sides is equal; None: there is none."""
    for one, other in zip(values[::2], values[1::2], strict=True):
        if one is not None and other is not None:
            return one == other
    return None


def taken(update: Update, build: Build) -> list[int]:
    """The offsets that a device may have reached when its link dropped: unanswered chunks may have arrived."""
    options, size = update.options, update.image.size
    sent = 0 if update.begun is None else options.chunks_in_flight  # none before OTA.Begin was answered
    reach = [update.offset + n * options.chunk_size for n in range(sent + 1)]
    return [
        offset
        for offset in sorted({min(offset, size) for offset in reach})
        if build.progress_percent in (None, offset * 100 // size)
    ]


# ---------------------------------------------------------------- guards: the docstring labels the arrow
# Each is a question about (update, event, now); the event has the type of its row.


def installed(u: Update, e: Any, now: float) -> bool:
    """runs this build already"""
    build = e.build or Build()
    return not u.options.force and build.is_committed is not False and same(build.id, u.image.build_id) is True


def other_platform(u: Update, e: Any, now: float) -> bool:
    """has another platform"""
    platform = (e.build or Build()).platform
    if u.options.force or platform is None or u.image.platform is None:
        return False
    return bool(platform.lower() != u.image.platform.lower())


def says_same_build(u: Update, e: Any, now: float) -> bool:
    """says: same build"""
    return judge(e.message) is Verdict.SAME_BUILD


def says_wrong_platform(u: Update, e: Any, now: float) -> bool:
    """says: wrong platform"""
    return judge(e.message) is Verdict.WRONG_PLATFORM


def may_repeat_chunk(u: Update, e: Any, now: float) -> bool:
    """OTA.Write, tries left"""
    if e.method != Write.method or u.chunk_failures + 1 >= u.options.chunk_attempts:
        return False
    return not u.image.bare if isinstance(e, CallTimedOut) else judge(e.message) is not Verdict.BAD_IMAGE


def attempts_left(u: Update, e: Any, now: float) -> bool:
    """attempts left"""
    return u.attempt < u.options.max_attempts


def worth_beginning_again(u: Update, e: Any, now: float) -> bool:
    """not the image's fault, attempts left"""
    own_leftover = e.method == Begin.method and judge(e.message) is Verdict.BUSY and u.attempt > 1
    return attempts_left(u, e, now) and (own_leftover or u.doubtful or e.method == Ask.method)


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
    if u.image.bare:  # no digest would notice that the transfer is another's, or a chunk was taken twice
        return u.begun is not None and len(offsets) == 1
    return bool(offsets)


def image_all_taken(u: Update, e: Any, now: float) -> bool:
    """transfer still open, nothing missing"""
    return transfer_still_open(u, e, now) and taken(u, e.build)[0] == u.image.size


def may_begin_anew(u: Update, e: Any, now: float) -> bool:
    """transfer lost, attempts left"""
    return awaited(u) == Ask.method and attempts_left(u, e, now)


def asked(u: Update, e: Any, now: float) -> bool:
    """transfer lost"""
    return awaited(u) == Ask.method


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


def healthy(u: Update, e: Any, now: float) -> bool:
    """auto-commit: there for long enough, and answers"""
    if not u.options.auto_commit or u.online_since is None or not e.answered:
        return False
    is_on_trial = e.build.is_committed is False or not u.reconnected
    return is_on_trial and runs(u, e.build) is Runs.NEW and now >= u.online_since + u.options.commit_after


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
