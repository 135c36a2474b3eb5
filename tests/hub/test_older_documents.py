"""What older versions have stored is read, and goes on. The documents stand here as those versions wrote them."""

from __future__ import annotations

import json

import attrs
import pytest

from mdashcore import ota, rollout
from mdashcore._errors import Conflict
from mdashcore.hub import Hub
from mdashcore.identity import DeviceKey

IMAGE = {"name": "fw.zip", "size": 2048, "sha256": "00", "build_id": "new", "version": "2.0", "platform": "esp32"}

OPTIONS = {
    "chunk_size": 1024,
    "chunk_attempts": 3,
    "chunks_in_flight": 1,
    "max_attempts": 3,
    "timeout": 600,
    "commit_timeout": 300,
    "force": False,
}

TIMES = {"created": 1000.0, "changed": 1010.0, "active": 1020.0}

FIRST = {
    "id": "ota_aaaaaaaaaaaa",
    "image": IMAGE | {"bare": False},
    **TIMES,
    "options": OPTIONS,
    "state": "TRANSFERRING",
    "reason": "",
    "offset": 1024,
    "attempt": 1,
    "chunk_failures": 0,
    "session": "open",
    "doubtful": False,
    "connected": True,
    "reconnected": False,
    "commit_requested": False,
    "not_before": None,
    "previous_build": {"id": "old", "version": "1.0", "platform": "esp32", "partition": 0, "is_committed": True},
    "started": 1010.0,
}
"""Before health checks, shared images, and devices that say less."""

SECOND = FIRST | {
    "options": OPTIONS | {"auto_commit": True, "commit_after": 30},
    "blob": None,
    "end_accepted": False,
    "online_since": None,
    "commit_unknown": False,
    "commit_settled": False,
    "questions": 0,
    "held_until": None,
    "waits_until": None,
    "begun": 1010.0,
    "taken": 1020.0,
}
"""Before applications were compared, and before an update had a revision."""

COUNTS = {"pending": 2, "updating": 0, "succeeded": 0, "failed": 0, "skipped": 0}

ROLLOUT = {
    "id": "rol_aaaaaaaaaaaa",
    "name": "fw.zip",
    "image": IMAGE | {"bare": False},
    "plan": {
        "phases": [100.0],
        "success_percent": 95.0,
        "error_percent": 10.0,
        "min_sample": 5,
        "rate": 60,
        "max_active": 50,
        "window": None,
        "offline_wait": 604_800.0,
        "timeout": 2_592_000.0,
        "approval": False,
        "options": OPTIONS | {"auto_commit": True, "commit_after": 30},
    },
    "filter": [],
    "created": 1000.0,
    "changed": 1000.0,
    "ends": [2],
    "counts": [COUNTS],
    "state": "RUNNING",
    "reason": "",
    "phase": 0,
    "phase_started": [1000.0],
    "round": 1,
    "cause": None,
    "forgiven": [],
    "accepted": 0,
    "next_start": 0.0,
}


PAUSED_ROLLOUT = ROLLOUT | {
    "filter": ["arch=esp32"],
    "grammar": 2,
    "driver": "n1",
    "blob": None,
    "state": "PAUSED",
    "cause": "success",
    "reason": "0 of 2 devices of phase 1 succeeded: less than 95 %, the success threshold",
    "counts": [COUNTS | {"pending": 0, "failed": 2}, COUNTS | {"pending": 1}],
    "plan": ROLLOUT["plan"] | {"phases": [50.0, 100.0]},
    "ends": [2, 3],
    "forgiven": [COUNTS | {"pending": 1, "failed": 1}, COUNTS | {"pending": 1}],
    "phase_started": [1040.0],
}
"""Before failures were kept, before a resume left the beginning of a phase, and before there were bulk updates."""


@pytest.fixture
def hub(tools):
    """A minute after the documents were written; its store is empty."""
    return Hub(tools.backend(), now=lambda: 1080.0, monotonic=lambda: 0.0, entropy=tools.entropy(), signal=tools.signal)


@pytest.mark.parametrize("stored", [FIRST, SECOND], ids=["first", "second"])
def test_an_update_goes_on_to_its_end(tools, hub, stored):
    """From where it stood: the process that takes it up tells it as any other, and people can see and cancel it."""
    key = DeviceKey("alice", "d1")
    tools.run(hub.accounts.register("alice", "hash"))
    tools.run(hub.create_device("alice", "d1"))
    tools.run(hub.backend.documents.put("updates", str(key), json.dumps(stored).encode()))
    update = tools.run(hub.updates.get(key))
    assert (update.offset, update.revision, update.image.app) == (1024, 0, None)
    assert hub.updates.describe(key, update)["progress_percent"] == 50
    performer = tools.run(hub.updates.load(key))
    assert performer.now() == 1080.0
    for event in (
        ota.DeviceDisconnected(),
        ota.DeviceConnected(),
        ota.BuildReported(
            ota.Build(id="old", status=1, progress_percent=50), answered=True, status=ota.Status.ANSWERED
        ),
        ota.ChunkAccepted(1024, 1024),
        ota.EndAccepted(),
        ota.DeviceDisconnected(),
        ota.DeviceConnected(),
        ota.BuildReported(ota.Build(id="new", is_committed=True, status=0)),
    ):
        tools.run(performer.apply(event))
    assert performer.update.state is ota.UpdateState.COMMITTED
    assert tools.run(hub.updates.get(key)) == performer.update


def test_a_rollout_is_read(tools, hub):
    """It is described, goes on and can be ended."""
    tools.run(hub.backend.documents.put("rollouts", "alice/rol_aaaaaaaaaaaa", json.dumps(ROLLOUT).encode()))
    (found,) = tools.run(hub.rollouts.of("alice"))
    assert (found.image.app, attrs.asdict(found.counts[0])) == (None, COUNTS)
    assert tools.run(hub.rollouts.abort("alice", found.id)).state is rollout.RolloutState.ABORTING


@pytest.mark.parametrize("stored", [FIRST, SECOND])
def test_members_of_a_newer_version_are_passed_over(stored):
    """So that a fleet of servers can be brought to a new version one by one."""
    assert ota.Update.from_stored(stored | {"from_the_future": 1}) == ota.Update.from_stored(stored)


def test_a_paused_rollout_keeps_its_meaning(tools, hub):
    """What it has forgiven stays so, its phase began when that says, and it goes on as any other."""
    put, id = hub.backend.documents.put, PAUSED_ROLLOUT["id"]
    tools.run(put("rollouts", f"alice/{id}", json.dumps(PAUSED_ROLLOUT).encode()))
    tools.run(put("rollout_rosters", f"alice/{id}/0000", json.dumps({"devices": ["d1", "d2", "d3"]}).encode()))
    for device in ("d1", "d2"):
        member = {"device": device, "outcome": "FAILED", "attempt": 1, "round": 1, "reason": "REJECTED: Invalid CRC"}
        tools.run(put("rollout_members", f"alice/{id}/{device}", json.dumps(member).encode()))
    found = tools.run(hub.rollouts.get("alice", id))
    assert (found.kind, found.failures, found.resumed) == (rollout.RolloutKind.ROLLOUT, (), None)
    assert not found.plan.options.other_app
    assert rollout.offline_deadline(found, 0) == 1040.0 + found.plan.offline_wait
    with pytest.raises(Conflict, match="forgive the 2 failures"):
        tools.run(hub.rollouts.resume("alice", id))
    resumed = tools.run(hub.rollouts.resume("alice", id, forgive=2))
    assert (resumed.state, resumed.accepted, resumed.phase_started) == (rollout.RolloutState.RUNNING, 1, (1040.0,))
    assert [each.failed for each in resumed.forgiven] == [2, 0]
