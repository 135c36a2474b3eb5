"""The field in virtual time: a node, and virtual devices of any character on it, whatever becomes of either.

Links drop, power is cut, the server is killed and another process takes over, its wall clock is set, people cancel,
commit and try again. Every update ends, in a state that is what the device runs; and a wall clock that is set changes
nothing of what happens, nor of when.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from device_stream import DeviceStream
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wall_clock import WallClock

from mdashcore import _json, firmware, ota
from mdashcore._errors import DeviceOffline, MdashError, RpcError, StorageError
from mdashcore.hub import Hub
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import Device, DeviceKey
from mdashcore.ota import Options, UpdateState
from mdashcore.rollout import RolloutState, added, parse_request
from mdashcore.storage import Backend, open_backend
from mdashcore.trio.drivers.clock_watch import CLOCK_INTERVAL
from mdashcore.trio.node import Node, NodeSettings, open_node
from mdashcore.virtual_device import CHARACTERS, FirmwareBuild, VirtualDevice, join
from mdashcore.virtual_device.wire import CharacterWire

SETTINGS = NodeSettings(ping_interval=86_400.0)  # in virtual time, silence is no sign of anything
OPTIONS = Options(chunk_size=1024, timeout=60, commit_timeout=120, commit_after=20, auto_commit=True)
KEY = DeviceKey("alice", "d1")
YEAR = 365 * 86_400.0


class Thing:
    """A virtual device in the field: it connects again and again, and boots again after each power cut."""

    def __init__(self, field: Field, registered: Device, folder: Path, names: Sequence[str]) -> None:
        character = join(*names)
        if character.chatter is not None:
            character = attrs.evolve(character, chatter=5.0)  # frames of days are what a test of hours can bear
        self.character = character
        self.registered = registered
        self._field = field
        self._folder = folder
        self._wire = CharacterWire(character)
        self._stream: DeviceStream | None = None
        self._requests: deque[dict[str, Any]] = deque()
        self._news = trio.Event()
        self._power = trio.CancelScope()
        self._away_until = 0.0

    async def live(self) -> None:
        """Run, from power cut to power cut."""
        while True:
            with trio.CancelScope() as self._power:
                self.device = VirtualDevice(
                    "d1",
                    self._folder,
                    build=FirmwareBuild("ccm", "1.0", "build-0", "esp32"),
                    character=self.character,
                    stats_interval=1e6,
                    log_interval=1e6,
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.device.run, self._notify, self._reboot)
                    nursery.start_soon(self._connect)
                    nursery.start_soon(self._work)
            self.drop()
            await trio.sleep(1)

    async def _connect(self) -> None:
        while True:
            pause = 1.0 if self.character.can_talk else 60.0  # a server does not let one in that sends rubbish
            await trio.sleep_until(max(self._away_until, trio.current_time() + pause))
            self._stream = stream = DeviceStream(self.hear)
            self._requests.clear()
            for method, params in self.device.hello():
                self._send({"method": method, "params": params})
            try:
                await self._field.node.devices.serve(self.registered, stream)  # type: ignore[arg-type]
            except StorageError:
                pass
            stream.abort()

    async def _work(self) -> None:
        while True:
            while self._requests:
                stream, frame = self._stream, self._requests.popleft()
                params = frame.get("params")
                if "id" not in frame:
                    await self.device.on_notification(frame["method"], params)
                    continue
                try:
                    answer = {"result": await self.device.handle(frame["method"], params)}
                except RpcError as exc:
                    answer = {"error": {"code": exc.code, "message": exc.message}}
                if stream is self._stream:
                    self._send({"id": frame["id"], **answer})
            self._news = trio.Event()
            await self._news.wait()

    def hear(self, message: bytes) -> None:
        """The server has sent something."""
        for text in self._wire.answers(message.decode()):
            if self._stream is not None:
                self._stream.put(text.encode())
        frame = _json.decode(message)
        if isinstance(frame, dict) and "method" in frame:
            self._requests.append(frame)
            self._news.set()

    def _send(self, message: dict[str, Any]) -> None:
        if self._stream is not None and not self._stream.ended:
            for frame in self._wire.frames(_json.encode(message).decode()):
                self._stream.put(frame.encode())

    async def _notify(self, method: str, params: Any) -> None:
        if self._stream is None or self._stream.ended:
            raise DeviceOffline("no link")
        self._send({"method": method, "params": params})

    async def _reboot(self) -> None:
        self.drop()

    # What may happen to it

    def drop(self) -> None:
        """Lose the link."""
        if self._stream is not None:
            self._stream.abort()

    def stay_away(self, seconds: float) -> None:
        """Lose the link, and have no other for so long."""
        self._away_until = trio.current_time() + seconds
        self.drop()

    def cut_power(self) -> None:
        """Boot again, from what is in the flash."""
        self._power.cancel()

    @property
    def runs(self) -> tuple[str, bool]:
        """The build that it runs, and whether that is committed."""
        state = self.device._boot.state
        return self.device._boot.running.build_id, state.committed


class Dying:
    """The documents as one process sees them: after its death it changes nothing any more."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.alive = True
        self.get, self.scan = inner.get, inner.scan

    async def put(self, *args: Any, **options: Any) -> int:
        self._check()
        return int(await self._inner.put(*args, **options))

    async def delete(self, *args: Any, **options: Any) -> bool:
        self._check()
        return bool(await self._inner.delete(*args, **options))

    def _check(self) -> None:
        if not self.alive:
            raise StorageError("this process is dead")


class Field:
    """A store, a server process on it, and a device."""

    node: Node
    hub: Hub
    thing: Thing

    def __init__(self, backend: Backend, nursery: trio.Nursery) -> None:
        self.wall = WallClock()
        self._backend = backend
        self._nursery = nursery
        self._builds = count(1)
        self._boots = count()
        self.told: list[tuple[float, str]] = []
        """Every state of every update, with the time at which it was stored."""

    async def start(self) -> None:
        """Start a server process; its monotonic clock begins anywhere."""
        self._documents = Dying(self._backend.documents)
        began = 1000.0 * next(self._boots)
        self.hub = Hub(
            attrs.evolve(self._backend, documents=self._documents),
            now=self.wall,
            monotonic=lambda: trio.current_time() - began,
            entropy=os.urandom,
        )
        self.hub.updates.on_change.append(self._changed)
        self._down = trio.Event()
        await self._nursery.start(self._serve)

    def _changed(self, key: DeviceKey, update: ota.Update) -> None:
        if self._documents.alive:
            self.told.append((trio.current_time(), update.state))

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as self._scope:
            async with open_node(self.hub, settings=SETTINGS) as self.node:
                task_status.started()
                await trio.sleep_forever()
        self._down.set()

    async def kill(self) -> None:
        """Kill the server process, and start another one."""
        self._documents.alive = False
        self._scope.cancel()
        await self._down.wait()
        await self.start()

    async def upload(self, *, size: int = 3000, build: str | None = None, bare: bool = False, **changes: Any) -> None:
        """Have an image of a new build installed, unless another update is going on."""
        number = next(self._builds)
        file = io.BytesIO()
        build = build or f"build-{number}"
        if bare:
            file.write(b"\xe9" + bytes(size - 1))
        else:
            manifest = {"name": "ccm", "platform": "esp32", "version": f"1.{number}", "build_id": build}
            firmware.write_image(file, manifest, {"app": bytes(size)})
        image = firmware.read_image(file, name="fw.bin" if bare else "fw.zip", bare=bare)

        async def pieces() -> AsyncIterator[bytes]:
            yield file.getvalue()

        id = self.hub.updates.new_id()
        await self.hub.blobs.put(blob_key("alice", id), pieces())
        options = attrs.evolve(OPTIONS, **changes)
        try:
            await self.node.update_supervisor.start(KEY, id, image, options)
        except MdashError:
            await self.hub.blobs.delete(blob_key("alice", id))

    async def leave_behind(self) -> None:
        """Begin an update, and cancel it when the device has got some of it."""
        await self.upload(size=30_000, commit_timeout=0)
        with trio.move_on_after(90):
            await self.node.update_supervisor.wait(KEY, lambda update: update.offset > 0)
        await self.happen("cancel")

    async def happen(self, what: str) -> None:
        """Something happens by itself, or a user asks for something."""
        match what:
            case "upload" | "upload, by hand" | "upload, at once":
                changes = {"upload": {}, "upload, by hand": {"auto_commit": False}}
                await self.upload(**changes.get(what, {"auto_commit": False, "commit_timeout": 0}))
            case "link drops":
                self.thing.drop()
            case "stays away":
                self.thing.stay_away(90.0)
            case "power cut":
                self.thing.cut_power()
            case "server killed":
                await self.kill()
            case "cancel":
                try:
                    await self.node.update_supervisor.cancel(KEY)
                except MdashError:
                    pass
            case "OTA.Commit" | "OTA.Revert":
                try:
                    await self.node.user_calls.call(KEY, what, timeout=10.0)
                except MdashError:
                    pass
            case "old transfer is ended":
                try:
                    await self.node.user_calls.end_transfer(KEY)
                except MdashError:
                    pass

    async def end(self) -> ota.Update:
        """The newest update, once it has ended."""
        with trio.fail_after(3 * 86_400.0):
            return await self.node.update_supervisor.wait(KEY, lambda update: False)

    def check(self, update: ota.Update) -> None:
        """Hold what the update says of the device against the device."""
        build, committed = self.thing.runs
        match update.state:
            case UpdateState.COMMITTED:
                assert (build, committed) == (update.image.build_id, True), update
            case UpdateState.ALREADY_INSTALLED:
                assert build == update.image.build_id, update
            case (
                UpdateState.ROLLED_BACK
                | UpdateState.CANCELED
                | UpdateState.REJECTED
                | UpdateState.FAILED
                | UpdateState.SUPERSEDED
                | UpdateState.TIMED_OUT
            ):
                assert build != update.image.build_id, update


Happening = tuple[str, float, float]
"""What happens, by how much the wall clock is set then, and how many seconds go by after it."""


@asynccontextmanager
async def open_field(folder: Path, names: Sequence[str]) -> AsyncIterator[Field]:
    """A field with a device that has just connected."""
    async with open_backend("memory://") as backend, trio.open_nursery() as nursery:
        field = Field(backend, nursery)
        await field.start()
        await field.hub.accounts.register("alice", "-")
        created = await field.hub.create_device("alice", "d1")
        field.thing = Thing(field, created.device, folder, names)
        nursery.start_soon(field.thing.live)
        await trio.sleep(5)
        yield field
        nursery.cancel_scope.cancel()


async def run_course(
    folder: Path, names: Sequence[str], course: Sequence[Happening], held: bool = False
) -> tuple[list[Any], ota.Update]:
    """Let all of it happen, then nothing more until the update has ended: what was told, and how it ended.

    Args:
        held: whether the device still holds the transfer of an earlier update when it begins.
    """
    async with open_field(folder, names) as field:
        if held:
            await field.leave_behind()
        await field.upload()
        for what, step, seconds in course:
            field.wall.ahead += step
            await field.happen(what)
            await trio.sleep(seconds)
        if not field.thing.character.can_talk:
            await field.happen("cancel")  # or the update waits for a month that it may begin
        update = await field.end()
        await trio.sleep(300)  # whatever the device still has to do, such as to roll back
        field.check(update)
    return field.told, update


def play(
    make_folder: Any, names: Sequence[str], course: Sequence[Happening], held: bool = False
) -> tuple[list[Any], ota.Update]:
    return trio.run(
        run_course, make_folder.mktemp("d1"), names, course, held, clock=trio.testing.MockClock(autojump_threshold=0)
    )


WHAT = st.sampled_from(
    [
        *("nothing", "link drops", "stays away", "power cut", "server killed"),
        *(
            "upload",
            "upload, by hand",
            "upload, at once",
            "cancel",
            "OTA.Commit",
            "OTA.Revert",
            "old transfer is ended",
        ),
    ]
)
STEPS = st.one_of(st.just(0.0), st.floats(-60 * YEAR, 60 * YEAR), st.sampled_from([-3600.0, -5.0, 5.0, 3600.0]))
PAUSES = st.sampled_from([0.0, 0.3, 2.5, 12.0, 45.0, 200.0])
NAMES = st.lists(st.sampled_from(sorted(CHARACTERS)), max_size=2, unique=True)


@example(  # a clock that is set while no process runs looks like an outage of years
    names=["answers-garbage"],
    course=[
        ("old transfer is ended", 0.0, 0.0),
        ("nothing", 0.0, 0.3),
        ("OTA.Commit", 0.0, 0.0),
        ("server killed", 1585827907.0, 0.0),
    ],
    held=False,
)
@example(names=["no-trial"], course=[("nothing", 0.0, 12.0), ("server killed", YEAR, 0.0)], held=False)
@example(
    names=[],
    course=[("nothing", 0.0, 12.0), ("server killed", YEAR, 12.0), ("OTA.Commit", 0.0, 0.0)],
    held=False,
)
@given(names=NAMES, course=st.lists(st.tuples(WHAT, STEPS, PAUSES), max_size=10), held=st.booleans())
def test_every_update_ends_in_a_state_that_is_what_the_device_runs(tmp_path_factory, names, course, held):
    """Whatever the device is like, holds and suffers, and whatever becomes of its link, the server and its clock."""
    play(tmp_path_factory, names, course, held)


APART = 0.007  # seconds: no sum of a few of them is one of the durations of devices and servers, which are tenths


@settings(max_examples=settings().max_examples // 2)  # each is played twice
@example(names=[], course=[("nothing", 0.0, 0.0), ("upload", 390.0, 0.0), ("server killed", 0.0, 0.0)])
@example(  # the device is back in the moment in which it leaves again, if the pauses make exactly its 90 s
    names=[],
    course=[("stays away", 0.0, 56.0), ("nothing", -1.9, 23.0), ("nothing", -1.9, 11.0), ("stays away", 0.0, 11.0)],
)
@given(names=NAMES, course=st.lists(st.tuples(WHAT, STEPS, PAUSES), max_size=8))
def test_a_wall_clock_that_is_set_changes_nothing(tmp_path_factory, names, course):
    """The same states, in the same second, and the same end as where it never was; also where it is set while no
    process runs, or when none had the time to notice.

    Nothing falls into the same moment as what the device does by itself: then chance would be the order.
    """
    course = [("nothing", 0.0, APART), *((what, step, seconds + APART) for what, step, seconds in course)]
    still = [(what, 0.0, seconds) for what, _, seconds in course]
    told, update = play(tmp_path_factory, names, course)
    expected, unmoved = play(tmp_path_factory, names, still)
    assert [state for _, state in told] == [state for _, state in expected]
    assert [time for time, _ in told] == pytest.approx([time for time, _ in expected], abs=2.0)
    assert update.state is unmoved.state


@pytest.mark.parametrize("name", sorted(CHARACTERS))
@pytest.mark.parametrize("held", [False, True])
def test_left_alone_each_character_is_updated(tmp_path_factory, name, held):
    """It is no straw man: where nothing goes wrong the update is committed, also after a transfer that it held. Where
    the device cannot be read it never begins, and can be taken back.
    """
    course = [] if CHARACTERS[name].forgets_transfers else [("nothing", 0.0, 10.0), ("power cut", 0.0, 5.0)]
    _, update = play(tmp_path_factory, [name], course if held else [], held)
    assert update.state is (UpdateState.COMMITTED if CHARACTERS[name].can_talk else UpdateState.CANCELED), update


@pytest.mark.parametrize("step", [-50 * YEAR, -3600.0, 3600.0, 50 * YEAR])
@pytest.mark.parametrize("during", ["stays away", "nothing", "upload, by hand"])
def test_the_next_process_finds_an_update_as_old_as_it_is(tmp_path_factory, step, during):
    """The wall clock is set, some seconds later the process is killed, and the update goes on where it was."""
    course = [(during, 0.0, 2.0), ("nothing", step, CLOCK_INTERVAL + 1), ("server killed", 0.0, 5.0)]
    told, update = play(tmp_path_factory, [], course)
    expected, unmoved = play(tmp_path_factory, [], [(what, 0.0, seconds) for what, _, seconds in course])
    assert (
        update.state is unmoved.state is (UpdateState.ROLLED_BACK if "by hand" in during else UpdateState.COMMITTED)
    ), update
    assert [time for time, _ in told] == pytest.approx([time for time, _ in expected], abs=2.0)


def test_a_clock_that_was_set_back_while_no_process_ran_prolongs_nothing(tmp_path_factory):
    """What has happened lies in the future then: the next process counts on from there."""
    course = [("stays away", 0.0, 2.0), ("server killed", -YEAR, 0.0)]
    told, update = play(tmp_path_factory, [], course)
    assert update.state is UpdateState.COMMITTED
    assert told[-1][0] < 300.0


TALKING = [name for name in sorted(CHARACTERS) if CHARACTERS[name].can_talk]

WAYS: dict[str, dict[str, Any]] = {
    "a bare image": {"bare": True},
    "the same build again": {"build": "build-0", "force": True},
    "the same build": {"build": "build-0"},
    "chunks on their way together": {"chunks_in_flight": 4, "size": 30_000},
    "reverted by a person": {"auto_commit": False, "commit_timeout": 600},
}


@pytest.mark.parametrize("name", TALKING)
def test_every_way_of_an_update_on_every_character(tmp_path, name):
    """A bare image, force, several chunks at the same time, a revert: each ends in a state that is what it runs."""

    async def main(way: str) -> ota.Update:
        async with open_field(tmp_path / way, [name]) as field:
            await field.upload(**WAYS[way])
            if "reverted" in way:
                with trio.move_on_after(3600):
                    await field.node.update_supervisor.wait(KEY, lambda update: update.state is UpdateState.UNCOMMITTED)
                await field.happen("OTA.Revert")
            update = await field.end()
            await trio.sleep(300)
            if not update.image.bare:
                field.check(update)
        return update

    character = CHARACTERS[name]
    for way in WAYS:
        update = trio.run(main, way, clock=trio.testing.MockClock(autojump_threshold=0))
        match way:
            case "the same build":
                expected = UpdateState.ALREADY_INSTALLED
            case "reverted by a person" if "OTA.Revert" not in character.lacks:
                expected = UpdateState.ROLLED_BACK
            case _:
                expected = UpdateState.COMMITTED
        assert update.state is expected, (way, update)


@pytest.mark.parametrize("name", ["no-status", "no-trial"])
def test_a_rollout_by_the_default_plan_whose_updates_a_person_commits(tmp_path, name):
    """It completes, though the device cannot say whether it is committed."""

    async def main() -> tuple[Any, tuple[str, bool]]:
        async with open_field(tmp_path, [name]) as field:
            hub, file = field.hub, io.BytesIO()
            manifest = {"name": "ccm", "platform": "esp32", "version": "1.1", "build_id": "build-1"}
            firmware.write_image(file, manifest, {"app": bytes(3000)})
            image = firmware.read_image(file, name="fw.zip")
            id = hub.rollouts.new_id()

            async def pieces() -> AsyncIterator[bytes]:
                yield file.getvalue()

            await hub.blobs.put(blob_key("alice", id), pieces())
            facts = ota.UpdateImage.of(image)
            made = await hub.rollouts.create("alice", id, parse_request({"all": True}), facts)
            await trio.sleep(60)  # the supervisor has begun it
            wait = field.node.update_supervisor.wait
            with trio.fail_after(3600):
                await wait(KEY, lambda update: update.state is UpdateState.UNCOMMITTED)
            await field.happen("OTA.Commit")
            field.check(await field.end())
            await trio.sleep(7200)
            return await hub.rollouts.get("alice", made.id), field.thing.runs

    rollout, runs = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert (rollout.state, added(rollout.counts).succeeded) == (RolloutState.COMPLETED, 1)
    assert runs == ("build-1", True)
