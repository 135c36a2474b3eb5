"""An over-the-air update: a frozen value, one table of transitions, and a function for the next step.

A performer (a hub, a script, a test) runs a loop. The functions do no I/O and read no clock::

    update = Update.queued("u1", Image.of(image), now=now)
    update = advance(update, Started(build), now=now)
    while (step := next_step(update)) is not None:
        ...                                         # store `update`, then perform `step`
        update = advance(update, event, now=now)    # event: the result of the step, or anything else that happened

A performer has to keep three rules. It stores a changed update before the call that follows from the change, so that
another process can continue. A performer that continues a stored update first advances it with
`DeviceDisconnected(resumed=True)`, because the link of the earlier performer is gone, and then with `DeviceConnected`
if the device is there. At `next_deadline` it advances it with `UpdateDeadlinePassed`. Every state that is not an end
has an idle and a total limit, so every update ends. The time without a performer counts for neither of them: a device
that comes back after an outage still says what it runs.

Times are those of a wall clock, and `now` has to run evenly. If the wall clock is set, the performer either continues
with the time that it would have been, or gives the update times of the new clock with `moved`.

`UPDATE_TRANSITIONS` is the whole machine: for a state and a kind of event the rows are tried in order. If no row
fits, the update stays as it is: after a late answer, a report without news, or a cancel after
`OTA.End`. In short: QUEUED → TRANSFERRING (`OTA.Begin`, `OTA.Write`…) → VERIFYING (`OTA.End`) → REBOOTING →
UNCOMMITTED → COMMITTED, where the build that the device reports after its reboot decides, never a guess. Two
ways lead back: a transfer begins again while there are attempts left, and `OTA.End` is sent again to a device
that came back without a reboot and still holds the whole image.

A device keeps an open transfer when its link drops, and has no call to end it: it forgets the transfer after
`timeout` seconds without progress. So after a lost link the device is asked (`OTA.Status`). If the transfer is still
open it continues at the offset, else it begins again. Old firmware ignores `offset` and appends; a chunk whose
answer was lost may then be in the image twice. The digests in a zip let the device notice this. A bare
image has no digests, so its transfer begins again instead of continuing in doubt.
"""

from __future__ import annotations

from mdashcore.ota._builds import Build
from mdashcore.ota._events import (
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
    Status,
    StepFailed,
    StepTimedOut,
    TransferEnded,
    UpdateDeadlinePassed,
    UpdateEvent,
)
from mdashcore.ota._fit import Fit, fit
from mdashcore.ota._images import ImageFacts, UpdateImage
from mdashcore.ota._machine import UPDATE_TRANSITIONS, UpdateTransition, advance, can_cancel, can_supersede
from mdashcore.ota._reports import lacks_method
from mdashcore.ota._steps import (
    STATE_LIMITS,
    Ask,
    Begin,
    Commit,
    End,
    StateLimits,
    Step,
    Wait,
    Write,
    can_end_transfer,
    commit_deadline,
    held_until,
    limits,
    next_deadline,
    next_step,
    time_limit,
)
from mdashcore.ota._times import TIME_FIELDS, moved
from mdashcore.ota._values import CHUNK_SIZE, MAX_CHUNK_SIZE, UPDATE_ENDS, Options, Session, Update, UpdateState

__all__ = [
    "CHUNK_SIZE",
    "MAX_CHUNK_SIZE",
    "STATE_LIMITS",
    "TIME_FIELDS",
    "UPDATE_ENDS",
    "UPDATE_TRANSITIONS",
    "Ask",
    "Begin",
    "BeginAccepted",
    "Build",
    "BuildReported",
    "CancelRequested",
    "ChunkAccepted",
    "Commit",
    "CommitAccepted",
    "CommitRequested",
    "CommitUnsupported",
    "DeviceConnected",
    "DeviceDisconnected",
    "End",
    "EndAccepted",
    "Fit",
    "ImageFacts",
    "NewerUpdateQueued",
    "Options",
    "RevertAccepted",
    "Session",
    "Started",
    "StateLimits",
    "Status",
    "Step",
    "StepFailed",
    "StepTimedOut",
    "TransferEnded",
    "Update",
    "UpdateDeadlinePassed",
    "UpdateEvent",
    "UpdateImage",
    "UpdateState",
    "UpdateTransition",
    "Wait",
    "Write",
    "advance",
    "can_cancel",
    "can_end_transfer",
    "can_supersede",
    "commit_deadline",
    "fit",
    "held_until",
    "lacks_method",
    "limits",
    "moved",
    "next_deadline",
    "next_step",
    "time_limit",
]
