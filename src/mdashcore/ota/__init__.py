"""An over-the-air update, from the queue to a true end: a frozen value, one table, and what to do next.

The performer (a hub, a script, a test) goes round a loop; nothing here does I/O or knows the time::

    update = Update.queued("u1", Image.of(image), now=now)
    update = advance(update, Started(build), now=now)
    while (step := next_step(update)) is not None:
        ...                                         # store `update`, then perform `step`
        update = advance(update, event, now=now)    # event: what came of it, or what else happened

Three rules bind the performer. A changed update is stored before the call that follows from it, so that
another process can go on. Who takes up a stored update first tells it `DeviceDisconnected` (the link of the
former owner is gone), then `DeviceConnected` if the device is there. At `next_deadline` it tells
`DeadlinePassed`: every state that is not an end has an idle and a total limit, so every update ends.

Times are of a wall clock, and `now` has to go on evenly: a performer whose wall clock is set goes on with the time that
it would be, or gives the update times of the new clock with `moved`.

`TRANSITIONS` is the whole machine: for a state and a kind of event the rows are tried in order. What no row
fits leaves the update as it is: a late answer, a report that says nothing new, a cancel that comes after
`OTA.End`. In short: QUEUED → TRANSFERRING (`OTA.Begin`, `OTA.Write`…) → VERIFYING (`OTA.End`) → REBOOTING →
UNCOMMITTED → COMMITTED, where the build that the device reports after its reboot decides, never a guess. Two
ways lead back: a transfer begins again while there are attempts left, and `OTA.End` is sent again to a device
that came back without a reboot and still holds the whole image.

A device keeps an open transfer when its link drops, and has no call to give it up: it forgets it after
`timeout` seconds without progress. So after a lost link it is asked (`OTA.Status`): if the transfer is still
open it goes on at the offset, else it begins again. Old firmware ignores `offset` and appends; a chunk whose
answer was lost may then be in the image twice. A zip carries digests by which the device notices; a bare
image does not, so it is begun again rather than continued in doubt.
"""

from __future__ import annotations

from mdashcore.ota._events import (
    BeginAccepted,
    BuildReported,
    CallFailed,
    CallTimedOut,
    CancelRequested,
    ChunkAccepted,
    CommitAccepted,
    CommitRequested,
    CommitUnsupported,
    DeadlinePassed,
    DeviceConnected,
    DeviceDisconnected,
    EndAccepted,
    Event,
    NewerUpdateQueued,
    RevertAccepted,
    Started,
    Status,
    TransferEnded,
)
from mdashcore.ota._machine import TRANSITIONS, Transition, advance, can_cancel
from mdashcore.ota._reports import lacks_method
from mdashcore.ota._steps import (
    LIMITS,
    Ask,
    Begin,
    Commit,
    End,
    Limits,
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
from mdashcore.ota._times import TIMES, moved
from mdashcore.ota._values import (
    CHUNK_SIZE,
    ENDS,
    MAX_CHUNK_SIZE,
    Build,
    Image,
    ImageFacts,
    Options,
    Session,
    State,
    Update,
)

__all__ = [
    "CHUNK_SIZE",
    "ENDS",
    "LIMITS",
    "MAX_CHUNK_SIZE",
    "TIMES",
    "TRANSITIONS",
    "Ask",
    "Begin",
    "BeginAccepted",
    "Build",
    "BuildReported",
    "CallFailed",
    "CallTimedOut",
    "CancelRequested",
    "ChunkAccepted",
    "Commit",
    "CommitAccepted",
    "CommitRequested",
    "CommitUnsupported",
    "DeadlinePassed",
    "DeviceConnected",
    "DeviceDisconnected",
    "End",
    "EndAccepted",
    "Event",
    "Image",
    "ImageFacts",
    "Limits",
    "NewerUpdateQueued",
    "Options",
    "RevertAccepted",
    "Session",
    "Started",
    "State",
    "Status",
    "Step",
    "TransferEnded",
    "Transition",
    "Update",
    "Wait",
    "Write",
    "advance",
    "can_cancel",
    "can_end_transfer",
    "commit_deadline",
    "held_until",
    "lacks_method",
    "limits",
    "moved",
    "next_deadline",
    "next_step",
    "time_limit",
]
