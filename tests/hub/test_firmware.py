"""The firmware library: what is added, removed and needed, in every order of steps; and which devices run an image."""

from __future__ import annotations

import hashlib
import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdash_backends.memory import MemoryBlobs, MemoryBus, MemoryLogs
from mdashcore import ota
from mdashcore._errors import AlreadyExists, Conflict, InvalidInput, LimitReached, NotFound
from mdashcore.firmware_entry import TRANSITIONS, EntryState, FirmwareEntry, RemovalStep, entry_id
from mdashcore.hub import Hub
from mdashcore.hub.firmware import devices
from mdashcore.hub.firmware.devices import FirmwareDevices, ImageUse, use_of
from mdashcore.hub.fleet.overview import ROWS_PER_PAUSE
from mdashcore.hub.fleet.rows import DeviceRow, ReportedBuild, UpdateFacts, _UpdateImage
from mdashcore.hub.limits import AccountLimits
from mdashcore.hub.maintenance.check import check_store
from mdashcore.hub.records.store import scoped
from mdashcore.hub.updates.store import blob_key
from mdashcore.identity import DeviceKey
from mdashcore.ota import UpdateState
from mdashcore.rollout import RolloutState, parse_request
from mdashcore.storage import Backend

BYTES = b"firmware of a lamp"
DIGEST = hashlib.sha256(BYTES).hexdigest()
IMAGE = ota.UpdateImage(name="fw.zip", size=len(BYTES), sha256=DIGEST, build_id="b2", version="2.0", app="lamp")
ID = entry_id(DIGEST)
LAMP = DeviceKey("alice", "lamp")


async def pieces(data):
    yield data


class SteppedBlobs(MemoryBlobs):
    """Blobs at the other end of a network: each verb that changes one pauses before and after it."""

    def __init__(self, pause):
        super().__init__()
        self._pause = pause

    async def put(self, key, chunks):
        await self._pause()
        size = await super().put(key, chunks)
        await self._pause()
        return size

    async def delete(self, key):
        await self._pause()
        found = await super().delete(key)
        await self._pause()
        return found


@attrs.define
class Place:
    """A hub with a device of alice, and what its users do."""

    hub: Hub
    backend: Backend

    async def add(self, data=BYTES, image=IMAGE, **options):
        """Upload an image, as a server does."""
        library = self.hub.firmware
        blob = library.new_blob()
        try:
            await self.hub.blobs.put(blob_key("alice", blob), pieces(data))
            return await library.add("alice", blob, image, uploaded_by="alice", **options)
        except Exception:
            await self.hub.blobs.delete(blob_key("alice", blob))
            raise

    async def add_checked(self):
        """Upload an image, if the account stays the same."""
        before = await self.hub.accounts.get("alice")

        async def check():
            present = await self.hub.accounts.get("alice")
            if before is None or present is None or present.id != before.id:
                raise NotFound("no user")

        await check()
        await self.add(check_account=check)

    async def add_after_removal(self):
        """Remove the image, unless another user has, and upload it again."""
        try:
            await self.remove()
        except NotFound:
            pass
        await self.add()

    async def remove(self):
        await self.hub.firmware.removal.remove("alice", ID)

    async def start(self):
        """Begin an update of the lamp with the image."""
        library, updates = self.hub.firmware, self.hub.updates
        entry = await library.usable("alice", ID)

        async def check():
            await library.check_kept("alice", entry)

        await updates.create(LAMP, updates.new_id(), entry.image, blob=entry.blob, check_image=check)

    async def roll_out(self):
        """Begin a rollout with the image."""
        library, rollouts = self.hub.firmware, self.hub.rollouts
        entry = await library.usable("alice", ID)

        async def check():
            await library.check_kept("alice", entry)

        request = parse_request({"all": True})
        await rollouts.create("alice", rollouts.new_id(), request, entry.image, blob=entry.blob, check_image=check)

    async def sweep(self):
        """What the collector does in two checks that are an hour apart."""
        before = await self.hub.firmware.removal.orphans()
        for account, id in before & await self.hub.firmware.removal.orphans():
            await self.hub.firmware.removal.remove_orphan(account, id)

    async def blobs(self):
        return {key async for key in self.backend.blobs.scan()}

    async def entries(self):
        return {entry.id: entry async for _, entry in self.hub.firmware.records.scan()}

    async def check(self, *, swept=True):
        """What holds whenever no request is going on."""
        blobs, entries = await self.blobs(), await self.entries()
        kept = {scoped("alice", entry.blob) for entry in entries.values()}
        assert kept <= blobs, "an entry has lost its image"
        update = await self.hub.updates.get(LAMP)
        if update is not None and not update.ended:
            assert blob_key("alice", update.blob_id) in blobs, "an update has lost its image"
        for rollout in await self.hub.rollouts.of("alice"):
            assert blob_key("alice", rollout.blob_id) in blobs, "a rollout has lost its image"
        if swept:
            assert kept == blobs
            assert all(entry.state is EntryState.KEPT for entry in entries.values())
            assert (await check_store(self.backend))[1] == []


def open_place(tools, **limits):
    backend = Backend(tools.documents(), MemoryLogs(), SteppedBlobs(tools.pause), MemoryBus())
    hub = Hub(
        backend,
        now=lambda: 1.0,
        monotonic=lambda: 1.0,
        entropy=tools.entropy(),
        signal=tools.signal,
        limits=AccountLimits(**limits),
    )
    place = Place(hub, backend)

    async def furnish():
        await hub.accounts.register("alice", "hash")
        await hub.create_device("alice", "lamp")

    tools.run(furnish())
    return place


@pytest.fixture
def place(tools):
    return open_place(tools)


# The states of an entry


@pytest.mark.parametrize(("state", "step"), [*itertools.product(EntryState, RemovalStep)])
def test_only_the_steps_of_the_table_are_allowed(state, step):
    """A kept image is not finished, and only one that is being removed can be."""
    entry = FirmwareEntry(id=ID, blob="img_a", image=IMAGE, name="lamp", created=1.0, uploaded_by="a", state=state)
    if (state, step) not in TRANSITIONS:
        with pytest.raises(KeyError):
            entry.after(step)
        return
    after = entry.after(step)
    assert (after is None) == (step is RemovalStep.FINISH)
    if after is not None:
        assert (after.state is EntryState.KEPT) == (step is RemovalStep.KEEP)
        assert attrs.evolve(after, state=state) == entry


@given(st.lists(st.sampled_from(RemovalStep), max_size=8))
def test_an_image_goes_only_after_it_was_marked(steps):
    """In every order of allowed steps, and it is marked when it goes."""
    entry = FirmwareEntry(id=ID, blob="img_a", image=IMAGE, name="lamp", created=1.0, uploaded_by="a")
    for step in steps:
        if (entry.state, step) not in TRANSITIONS:
            continue
        before, entry = entry, entry.after(step)
        if entry is None:
            assert before.state is EntryState.REMOVING
            return


# Adding, reading, editing


def test_an_image_is_kept_with_its_facts(tools, place):
    """Its name is that of the application until it is changed, and the id follows from the bytes."""
    entry, is_new = tools.run(place.add(notes="first"))
    assert is_new
    assert (entry.id, entry.name, entry.notes, entry.image) == (f"fw_{DIGEST[:16]}", "lamp", "first", IMAGE)
    assert tools.run(place.hub.firmware.get("alice", ID)) == entry
    assert tools.run(place.hub.firmware.of("alice")) == [entry]
    tools.run(place.check())


def test_the_same_image_is_kept_once(tools, place):
    """The second one is answered with the first: one entry, one blob, and counted once."""
    first, _ = tools.run(place.add(name="mine"))
    second, is_new = tools.run(place.add(name="another"))
    assert (second, is_new) == (first, False)
    assert tools.run(place.blobs()) == {scoped("alice", first.blob)}
    use = tools.run(place.hub.usage.of("alice"))
    assert (use.firmware, use.image_bytes, use.arriving) == (1, len(BYTES), {})


def test_the_same_bytes_as_another_kind_are_refused(tools, place):
    """A zip that was kept as a bare image would be sent without its checks."""
    tools.run(place.add())
    with pytest.raises(AlreadyExists, match="as a firmware zip"):
        tools.run(place.add(image=attrs.evolve(IMAGE, bare=True)))
    with pytest.raises(AlreadyExists, match="its digest begins"):
        tools.run(place.add(image=attrs.evolve(IMAGE, sha256=DIGEST[:16] + "0" * 48)))
    tools.run(place.check())


def test_name_and_notes_are_edited(tools, place):
    """Each alone or both; what is no text is refused, and changes nothing."""
    tools.run(place.add())
    edit = place.hub.firmware.edit
    assert tools.run(edit("alice", ID, name="Hall lamps")).name == "Hall lamps"
    assert tools.run(edit("alice", ID, notes="x" * 4096)).name == "Hall lamps"
    before = tools.run(place.hub.firmware.get("alice", ID))
    for wrong in ({"name": "x" * 257}, {"notes": "x" * 4097}, {"notes": 1}, {"name": None, "notes": "\ud800"}):
        with pytest.raises(InvalidInput):
            tools.run(edit("alice", ID, **wrong))
    assert tools.run(place.hub.firmware.get("alice", ID)) == before
    with pytest.raises(NotFound):
        tools.run(edit("bob", ID, name="his"))


def test_an_account_keeps_a_bounded_number(tools):
    """One more is refused with the name of the limit, and leaves nothing; after a removal there is room."""
    place = open_place(tools, firmware=1)
    tools.run(place.add())
    other = attrs.evolve(IMAGE, sha256=hashlib.sha256(b"other").hexdigest(), size=5)
    with pytest.raises(LimitReached) as refused:
        tools.run(place.add(b"other", other))
    assert (refused.value.limit, str(refused.value)) == (
        "firmware",
        "the account has 1 images in its library, and may have 1",
    )
    tools.run(place.check())
    tools.run(place.remove())
    assert tools.run(place.add(b"other", other))[1]
    tools.run(place.check())


# Removing


def test_an_image_is_removed_with_its_bytes(tools, place):
    """And a missing one is not found."""
    tools.run(place.add())
    tools.run(place.remove())
    assert tools.run(place.blobs()) == set()
    assert tools.run(place.hub.usage.of("alice")).firmware == 0
    for id in (ID, "", "x" * 65, "../lamp", "é"):
        with pytest.raises(NotFound):
            tools.run(place.hub.firmware.removal.remove("alice", id))


@pytest.mark.parametrize(("use", "words"), [("start", "update of 'lamp', which is QUEUED"), ("roll_out", "RUNNING")])
def test_an_image_in_use_is_not_removed(tools, place, use, words):
    """It stays usable, and can be removed once what needs it has ended."""
    tools.run(place.add())
    tools.run(getattr(place, use)())
    with pytest.raises(Conflict, match=words):
        tools.run(place.remove())
    assert tools.run(place.hub.firmware.usable("alice", ID))
    tools.run(place.check())
    if use == "start":
        tools.run(place.hub.updates.cancel(LAMP))
    else:
        tools.run(place.hub.rollouts.forget("alice"))
    tools.run(place.remove())
    assert tools.run(place.blobs()) == set()


def test_an_update_that_ends_leaves_the_image(tools, place):
    """It is the library's, not the update's."""
    tools.run(place.add())
    tools.run(place.start())
    tools.run(place.hub.updates.cancel(LAMP))
    tools.run(place.check())
    assert tools.run(place.hub.updates.orphans()) == set()
    tools.run(place.start())


CUTS = range(60)
"""The numbers of steps of one request after which the other one runs to its end: more than a removal has."""


@pytest.mark.parametrize("use", ["start", "roll_out"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_removal_and_a_beginning(tools, use, is_first):
    """In every order of steps: the update begins and the image stays, or the update is refused; never an update
    without its image. Both are refused only if each has seen the other.
    """
    results = set()
    for cut in CUTS:
        place = open_place(tools)
        tools.run(place.add())
        requests = [place.remove(), getattr(place, use)()]
        order = [0 if is_first else 1] * cut + [1 if is_first else 0] * 200
        removed, begun = tools.interleave(requests, order)
        assert isinstance(removed.error, Conflict | None)
        assert isinstance(begun.error, Conflict | NotFound | None)
        tools.run(place.check(swept=False))
        is_kept = ID in tools.run(place.entries())
        assert is_kept == (removed.error is not None)
        assert begun.error is not None or is_kept
        tools.run(place.sweep())
        tools.run(place.check())
        results.add((removed.error is None, begun.error is None))
    assert {(True, False), (False, True)} <= results


@given(st.lists(st.integers(0, 3), max_size=120))
def test_requests_at_the_same_time(tools, choices):
    """Two removals, an upload of the same image and an update, one step of each in any order: what is kept has its
    bytes, what is not kept has none left, an update that begins has its image, and all is counted.
    """
    place = open_place(tools)
    tools.run(place.add())
    outcomes = tools.interleave([place.remove(), place.remove(), place.add(), place.start()], choices)
    *refusable, added = outcomes[0], outcomes[1], outcomes[3], outcomes[2]
    assert added.error is None
    assert all(isinstance(each.error, Conflict | NotFound | None) for each in refusable)
    update = tools.run(place.hub.updates.get(LAMP))
    if outcomes[3].error is None:
        assert not update.ended
    elif update is not None:
        assert update.state is UpdateState.CANCELED
    tools.run(place.check(swept=False))
    assert tools.run(place.hub.usage.of("alice")).firmware == len(tools.run(place.entries()))
    tools.run(place.sweep())
    tools.run(place.check())


@pytest.mark.parametrize("request_", ["add", "remove"])
def test_a_killed_process_leaves_nothing(tools, request_):
    """Wherever an upload or a removal is stopped: what is left is swept, and the image can be added and removed."""
    for steps in itertools.count():
        place = open_place(tools)
        if request_ == "remove":
            tools.run(place.add())
        if not tools.stop(getattr(place, request_)(), steps, tools.stops[0]()):
            break
        if steps % 2:  # the next request finishes it; else the collector does
            tools.run(place.sweep())
            tools.run(place.check())
        tools.run(place.add())
        tools.run(place.remove())
        tools.run(place.sweep())
        assert tools.run(place.blobs()) == set()
        assert tools.run(place.entries()) == {}
    assert steps > 10


@pytest.mark.parametrize("request_", ["start", "roll_out"])
def test_a_process_that_is_killed_before_it_has_looked(tools, request_):
    """The image is removed while an update or a rollout begins, whose process is killed then, at any two steps: what
    is left without an image is ended by the process that takes it up, and does not wait for a device.
    """
    ended = set()
    for before, after in itertools.product(range(60), range(1, 16, 2)):
        place = open_place(tools)
        tools.run(place.add())
        request = getattr(place, request_)()
        try:
            for _ in range(before):
                request.send(None)
            tools.run(place.remove())
        except (Conflict, StopIteration):  # the update or the rollout is stored, and its image stays
            request.close()
            continue
        try:
            tools.stop(request, after, tools.stops[0]())
        except (Conflict, NotFound):
            pass
        hub = place.hub
        tools.run(hub.updates.unfinished())
        tools.run(hub.rollouts.unfinished())
        update = tools.run(hub.updates.get(LAMP))
        assert update is None or update.state is UpdateState.CANCELED
        rollouts = tools.run(hub.rollouts.of("alice"))
        assert [each.state for each in rollouts] in ([], [RolloutState.ABORTING])
        ended.add(update is not None or bool(rollouts))
    assert ended == {True, False}


def test_other_tasks_run_while_updates_are_read(tools, place):
    """For a removal that was interrupted, and for orphans: there is a pause for each update."""
    entry, _ = tools.run(place.add())
    for n in range(5):
        key = DeviceKey("alice", f"d{n}")
        tools.run(place.hub.create_device("alice", key.id))
        tools.run(place.hub.updates.create(key, place.hub.updates.new_id(), attrs.evolve(IMAGE, sha256="1" * 64)))
    tools.run(place.hub.firmware.records.put(f"alice/{ID}", entry.after(RemovalStep.BEGIN)))
    tools.run(place.hub.blobs.put(blob_key("alice", "img_left"), pieces(BYTES)))
    pauses = []

    async def pause():
        pauses.append(1)

    def paused(coroutine):
        pauses.clear()
        tools.run(coroutine)
        return len(pauses)

    assert paused(place.hub.firmware.removal.orphans(pause)) >= 5
    assert paused(place.hub.updates.orphans(pause)) == 5
    assert paused(place.hub.firmware.finish_removal("alice", DIGEST, pause)) == 5
    assert tools.run(place.entries()) == {}


@pytest.mark.parametrize("is_replaced", [True, False])
def test_an_update_that_is_refused_costs_no_other(tools, place, is_replaced):
    """Its image was removed: an update that waits stays. One that another user has queued since stays too."""
    library, updates = place.hub.firmware, place.hub.updates
    image = attrs.evolve(IMAGE, sha256="1" * 64)

    async def queue(id):
        await place.hub.blobs.put(blob_key("alice", id), pieces(BYTES))
        await updates.create(LAMP, id, image)

    looks = itertools.count()

    async def check():
        if next(looks) == 0 and is_replaced:
            return
        if is_replaced:
            await queue("ota_second")
        await library.check_kept("alice", entry)

    entry, _ = tools.run(place.add())
    tools.run(queue("ota_first"))
    tools.run(place.remove())
    with pytest.raises(Conflict, match="just removed"):
        tools.run(updates.create(LAMP, updates.new_id(), IMAGE, blob=entry.blob, check_image=check))
    update = tools.run(updates.get(LAMP))
    assert (update.id, update.state) == ("ota_second" if is_replaced else "ota_first", UpdateState.QUEUED)


def test_an_orphan_that_an_update_needs_stays(tools, place):
    """The entry was damaged, and removed then: its blob is known to the update alone, which it outlives."""
    tools.run(place.add())
    tools.run(place.start())
    tools.run(place.backend.documents.put("firmware", f"alice/{ID}", b'"?"'))
    tools.run(place.remove())
    tools.run(place.sweep())
    tools.run(place.check(swept=False))
    tools.run(place.hub.updates.cancel(LAMP))
    tools.run(place.sweep())
    assert tools.run(place.blobs()) == set()


def test_a_damaged_entry_protects_the_blobs_of_its_account(tools, place):
    """It may need any of them. It is listed, and a check of the store says it."""
    tools.run(place.add())
    tools.run(place.backend.documents.put("firmware", f"alice/{ID}", b'"?"'))
    tools.run(place.sweep())
    assert len(tools.run(place.blobs())) == 1
    damaged = []
    assert tools.run(place.hub.firmware.of("alice", damaged)) == []
    assert damaged == [ID]
    assert len(tools.run(check_store(place.backend))[1]) == 1


def test_the_check_of_a_store_finds_a_lost_image(tools, place):
    """Also before an update needs it."""
    entry, _ = tools.run(place.add())
    tools.run(place.backend.blobs.delete(scoped("alice", entry.blob)))
    assert tools.run(check_store(place.backend))[1] == [f"firmware/alice/{ID} is kept, and its image is gone"]


def test_nothing_of_a_removed_account_is_left(tools, place):
    """Neither its images nor their records."""
    tools.run(place.add())
    tools.run(place.start())
    tools.run(place.hub.remove_account("alice"))
    assert (tools.run(place.blobs()), tools.run(place.entries())) == (set(), {})


def test_an_account_that_is_removed_while_an_image_arrives(tools):
    """In every order of steps: nothing of it is left to the next account of that name."""
    refused = 0
    for cut in CUTS:
        place = open_place(tools)
        added, removed = tools.interleave(
            [place.add_checked(), place.hub.remove_account("alice")], [0] * cut + [1] * 400
        )
        assert removed.error is None
        assert isinstance(added.error, NotFound | None)
        refused += added.error is not None
        tools.run(place.hub.accounts.register("alice", "another hash"))
        assert (tools.run(place.blobs()), tools.run(place.entries())) == (set(), {})
        assert tools.run(place.hub.usage.of("alice")).firmware == 0
    assert 0 < refused < len(CUTS)


def test_lost_bytes_come_back_with_the_next_upload(tools, place):
    """The entry stays with its texts and its number, and has the bytes that have arrived."""
    first, _ = tools.run(place.add(notes="first"))
    tools.run(place.backend.blobs.delete(scoped("alice", first.blob)))
    second, is_new = tools.run(place.add(notes="second"))
    assert (attrs.evolve(second, blob=first.blob), is_new) == (first, False)
    tools.run(place.check())
    assert tools.run(place.hub.usage.of("alice")).firmware == 1


def test_an_upload_replaces_a_damaged_entry(tools, place):
    """The blob of the damaged one is swept, and the image is counted once."""
    tools.run(place.add())
    tools.run(place.backend.documents.put("firmware", f"alice/{ID}", b'"?"'))
    assert tools.run(place.add())[1]
    tools.run(place.sweep())
    tools.run(place.check())
    assert tools.run(place.hub.usage.of("alice")).firmware == 1


def test_a_removal_of_a_damaged_entry_spares_the_next_one(tools):
    """In every order of steps of two removals and an upload, what was added is there, or was removed with its bytes."""
    for cut in CUTS:
        place = open_place(tools)
        tools.run(place.add())
        tools.run(place.backend.documents.put("firmware", f"alice/{ID}", b'"?"'))
        others = place.add_after_removal()
        removed, added = tools.interleave([place.remove(), others], [0] * cut + [1] * 400)
        assert added.error is None
        assert isinstance(removed.error, NotFound | None)
        entries, blobs = tools.run(place.entries()), tools.run(place.blobs())
        assert len(blobs) == 1 + len(entries), "a good entry was deleted without its bytes"
        tools.run(place.sweep())
        tools.run(place.check())


def test_a_lost_race_is_not_the_users(tools, place):
    """A removal that another writer disturbs goes on."""
    tools.run(place.add())
    place.backend.documents.conflicts = 3
    tools.run(place.remove())
    assert tools.run(place.entries()) == {}


# Devices


def row(*, fw_id=None, app=None, version=None, state=None, sha256=DIGEST):
    update = None if state is None else UpdateFacts("ota_a", state, 1.0, "", _UpdateImage(sha256))
    return DeviceRow("lamp", "Lamp", build=ReportedBuild(app=app, fw_id=fw_id, fw_version=version), update=update)


@pytest.mark.parametrize(
    ("row", "use"),
    [
        (row(), None),
        (row(fw_id="b1"), None),
        (row(fw_id="b2"), ImageUse.RUNNING),
        (row(fw_id="b2", app="lamp"), ImageUse.RUNNING),
        (row(fw_id="b2", app="pump"), None),
        (row(fw_id="b2", app="lamp", version="2.0"), ImageUse.RUNNING),
        (row(fw_id="b2", app="lamp", version="2.1"), None),
        (row(fw_id="b1", state=UpdateState.TRANSFERRING), ImageUse.UPDATING),
        (row(fw_id="b2", state=UpdateState.UNCOMMITTED), ImageUse.UPDATING),
        (row(fw_id="b2", state=UpdateState.COMMITTED), ImageUse.RUNNING),
        (row(fw_id="b1", state=UpdateState.COMMITTED), None),  # it was given another one by hand
        (row(fw_id="b1", state=UpdateState.ROLLED_BACK), ImageUse.FAILED),
        (row(fw_id="b2", state=UpdateState.TIMED_OUT), ImageUse.RUNNING),  # it was too late, and went well
        (row(fw_id="b1", state=UpdateState.CANCELED), None),
        (row(fw_id="b1", state=UpdateState.FAILED, sha256="0" * 64), None),
    ],
)
def test_what_a_device_does_with_an_image(row, use):
    """By the build that it reports, and by its newest update."""
    assert use_of(row, IMAGE) is use


def test_a_bare_image_runs_where_it_was_committed():
    """It has no build that a device could report."""
    bare = ota.UpdateImage(name="fw.bin", size=3, sha256=DIGEST, bare=True)
    assert use_of(row(fw_id="b1", state=UpdateState.COMMITTED), bare) is ImageUse.RUNNING
    assert use_of(row(fw_id="b1", state=UpdateState.FAILED), bare) is ImageUse.FAILED
    assert use_of(row(fw_id="b1"), bare) is None


class Rows:
    """A summary of these rows."""

    def __init__(self, rows):
        self.rows = dict(enumerate(rows))

    async def of(self, account, pause):
        return self


def kept(number, **image):
    """An image of the library."""
    facts = ota.UpdateImage(name="fw.zip", size=3, sha256=f"{number:064}", **image)
    return FirmwareEntry(id=f"fw_{number}", blob="b", image=facts, name="", created=1.0, uploaded_by="alice")


NO_TEXT = st.sampled_from([None, "1", "2"])


@given(
    images=st.lists(st.builds(dict, build_id=NO_TEXT, version=NO_TEXT, app=NO_TEXT), max_size=4),
    rows=st.lists(
        st.builds(
            row,
            fw_id=NO_TEXT,
            app=NO_TEXT,
            version=NO_TEXT,
            state=st.sampled_from([None, *UpdateState]),
            sha256=st.integers(0, 4).map("{:064}".format),
        ),
        max_size=12,
    ),
)
def test_the_counts_are_what_each_device_does_with_each_image(tools, images, rows):
    """However many images have the same build, and many devices report it."""
    entries = [kept(number, **image) for number, image in enumerate(images)]
    uses = {entry.id: [use_of(row, entry.image) for row in rows] for entry in entries}
    counted = {id: {use: found.count(use) for use in ImageUse} for id, found in uses.items()}
    assert tools.run(FirmwareDevices(Rows(rows)).counts("alice", entries)) == counted


def test_many_images_of_one_build_are_counted_in_small_steps(tools, monkeypatch):
    """What many devices report is compared once with each image, and others have a turn after a few hundred."""
    steps, compare = [0], devices._may_be

    def may_be(*pair):
        steps[-1] += 1
        return compare(*pair)

    async def pause():
        steps.append(0)

    monkeypatch.setattr(devices, "_may_be", may_be)
    entries = [kept(number, build_id="b2") for number in range(1000)]
    rows = [row(fw_id="b2") for _ in range(3 * ROWS_PER_PAUSE)]
    found = tools.run(FirmwareDevices(Rows(rows)).counts("alice", entries, pause))
    assert {counts[ImageUse.RUNNING] for counts in found.values()} == {len(rows)}
    assert (sum(steps), max(steps)) == (1000, ROWS_PER_PAUSE)


def test_the_devices_of_an_image_are_counted(tools, place):
    """In the list of images and for one of them, with at most as many devices as wanted."""
    tools.run(place.add())
    for number in range(5):
        key = DeviceKey("alice", f"d{number}")
        tools.run(place.hub.create_device("alice", key.id))
        build = {"fw_id": "b2" if number < 3 else "b1"}
        tools.run(place.hub.shadows.update(key, {"state": {"reported": {"ota": build}}}))
    tools.run(place.start())
    (entry,) = tools.run(place.hub.firmware.of("alice"))
    counts = {ImageUse.RUNNING: 3, ImageUse.UPDATING: 1, ImageUse.FAILED: 0}
    assert tools.run(place.hub.firmware_devices.counts("alice", [entry])) == {ID: counts}
    found = tools.run(place.hub.firmware_devices.of("alice", entry, limit=2))
    assert found.counts == counts
    assert {use: [each.id for each in rows] for use, rows in found.devices.items()} == {
        ImageUse.RUNNING: ["d0", "d1"],
        ImageUse.UPDATING: ["lamp"],
        ImageUse.FAILED: [],
    }
    assert found.filter == ['fw_id="b2"']
