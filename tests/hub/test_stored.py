"""What older versions have stored: the documents of the first version, of every collection, are read by this one."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

import pytest

from mdashcore import Damaged, DeviceKey, InvalidInput, _json
from mdashcore.hub import Hub, LogQuery
from mdashcore.hub.maintenance.backup import export_store, import_store, is_unfinished
from mdashcore.hub.records.schema import COLLECTIONS
from mdashcore.storage import Document, open_backend

FIRST = json.loads((Path(__file__).parent / "stored_0_1.json").read_text())
"""Documents and secrets as version 0.1 has stored them. They never change: another version gets a file of its own."""

DOCUMENTS = [(name, key, body) for name, found in FIRST["documents"].items() for key, body in found.items()]

LAMP = DeviceKey("alice", "lamp")


def read(name, key, body):
    """What a stored document is, in its present form."""
    collection = COLLECTIONS[name]
    return collection.dump(collection.read(Document(key, 1, _json.encode(body))))


def objects(value, path=()):
    """Every object in a JSON value that has members of its own, by its path; a shadow's sections are a user's."""
    if isinstance(value, dict):
        yield path
        for key, member in value.items():
            if key not in ("state", "timestamps", "arriving"):
                yield from objects(member, (*path, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from objects(member, (*path, index))


def at(value, path):
    """The object at a path."""
    for step in path:
        value = value[step]
    return value


def test_every_collection_is_looked_at():
    """Also those that are not exported."""
    added = {"saved_filters", "firmware", "jobs", "job_marks", "job_pieces"}  # by later versions
    assert set(FIRST["documents"]) == set(COLLECTIONS) - added


@pytest.mark.parametrize(("name", "key", "body"), DOCUMENTS)
def test_the_documents_of_the_first_version(name, key, body):
    """Each is read, and nothing that stood in it is lost."""
    present = json.loads(_json.encode(read(name, key, body)))

    def is_within(old, new):
        if isinstance(old, dict):
            return isinstance(new, dict) and all(k in new and is_within(v, new[k]) for k, v in old.items())
        if isinstance(old, list):
            return len(old) == len(new) and all(itertools.starmap(is_within, zip(old, new, strict=True)))
        return old == new

    assert is_within(body, present)


@pytest.mark.parametrize(("name", "key", "body"), DOCUMENTS)
def test_what_a_newer_version_adds_is_passed_over(name, key, body):
    """In any object of a document."""
    wanted = read(name, key, body)
    for path in list(objects(body)):
        newer = json.loads(json.dumps(body))
        at(newer, path)["added_later"] = {"a": 1}
        assert read(name, key, newer) == wanted, path


REQUIRED = {
    "accounts": {"name", "password_hash", "admin", "created_at"},
    "admins": {"admins"},
    "keys": {"account", "id", "name", "hash", "created_at"},
    "key_owners": {"account", "id"},
    "devices": {"account", "id", "name", "token_hash", "created_at"},
    "token_owners": {"account", "id"},
    "presence": set(),
    "shadows": {"version", "timestamp", "state", "timestamps"},
    "updates": {"id", "image", "created", "changed", "active"},
    "update_histories": set(),
    "rollouts": {"id", "name", "image", "plan", "filter", "created", "changed", "ends", "counts"},
    "rollout_rosters": {"devices"},
    "rollout_members": {"device"},
    "usage": set(),
    "sessions": {"account", "id", "hash", "credential", "created_at", "used_at"},
    "nodes": {"seen"},
}
"""What every version has stored. A member that is added later has a default: no document of before has it."""


@pytest.mark.parametrize(("name", "key", "body"), DOCUMENTS)
def test_a_member_that_was_added_later_has_a_default(name, key, body):
    """So a document with those of the first version alone can be read; and with one less it is damaged."""
    least = {member: value for member, value in body.items() if member in REQUIRED[name]}
    assert least.keys() == REQUIRED[name]
    read(name, key, least)
    for member in REQUIRED[name]:
        with pytest.raises(Damaged, match=f"{name}/"):
            read(name, key, {k: v for k, v in least.items() if k != member})


async def stored():
    """A backend as the first version has left it."""
    async with open_backend("memory://") as backend:
        for name, key, body in DOCUMENTS:
            await backend.documents.put(name, key, _json.encode(body))
    return backend


def hub_of(backend):
    """A service on it."""
    return Hub(backend, now=lambda: 1_700_000_100.0, monotonic=time.monotonic, entropy=os.urandom)


async def test_the_service_goes_on_with_it():
    """Accounts, secrets, devices, shadows, updates and rollouts are what they were, and to read them writes nothing."""
    backend = await stored()
    hub = hub_of(backend)
    before = [[each async for each in backend.documents.scan(name)] for name in COLLECTIONS]
    account = await hub.accounts.get("alice")
    assert (account.name, account.admin) == ("alice", True)
    assert (await hub.registry.authenticate(FIRST["secrets"]["device"])).id == "lamp"
    assert (await hub.shadows.get(LAMP)).delta == {"on": True}
    assert (await hub.presence.get(LAMP)).node == "node_a"
    assert (await hub.updates.get(LAMP)).state == "QUEUED"
    assert [past.state for past in (await hub.updates.history(LAMP)).past] == ["COMMITTED"]
    (rollout,) = await hub.rollouts.of("alice")
    assert await hub.rollouts.devices("alice", rollout.id) == ["lamp"]
    assert [[each async for each in backend.documents.scan(name)] for name in COLLECTIONS] == before
    assert (await hub.accounts.authenticate_key(FIRST["secrets"]["key"])).name == "ci"
    assert (await hub.sessions.authenticate(FIRST["secrets"]["session"]))[1].name == "alice"


async def test_what_is_not_known_goes_when_the_document_is_next_written():
    """And not before; what is known stays."""
    backend = await stored()
    newer = FIRST["documents"]["devices"]["alice/lamp"] | {"added_later": 1}
    await backend.documents.put("devices", "alice/lamp", _json.encode(newer))
    hub = hub_of(backend)
    await hub.registry.get(LAMP)
    assert b"added_later" in (await backend.documents.get("devices", "alice/lamp")).body
    await hub.rename_device(LAMP, "Lantern")
    body = json.loads((await backend.documents.get("devices", "alice/lamp")).body)
    assert body == FIRST["documents"]["devices"]["alice/lamp"] | {"name": "Lantern", "tags": {}, "is_announced": True}


async def test_a_backup_of_a_newer_version_is_refused():
    """Before anything of it is written; those of the first version are taken."""

    async def lines(version):
        yield b'{"format":"mdashcore","version":%d}' % version
        yield b'{"collection":"devices","key":"alice/lamp","content":{"added_later":1}}'

    async with open_backend("memory://") as backend:
        with pytest.raises(InvalidInput, match="version 1"):
            await import_store(backend, lines(2))
        assert [each for name in COLLECTIONS async for each in backend.documents.scan(name)] == []
        assert not await is_unfinished(backend)
    async with open_backend("memory://") as backend:
        exported = [line async for line in export_store(await stored())]
        assert json.loads(exported[0]) == {"format": "mdashcore", "version": 1}

        async def again():
            for line in exported:
                yield line

        await import_store(backend, again())
        assert (await hub_of(backend).registry.authenticate(FIRST["secrets"]["device"])).id == "lamp"


async def test_a_state_of_a_newer_version_is_damage_that_passes():
    """The document is named and left as it is: the newer version finds it again."""
    backend = await stored()
    newer = _json.encode(FIRST["documents"]["updates"]["alice/lamp"] | {"state": "HOVERING"})
    await backend.documents.put("updates", "alice/lamp", newer)
    hub = hub_of(backend)
    with pytest.raises(Damaged, match="updates/alice/lamp"):
        await hub.updates.get(LAMP)
    assert (await backend.documents.get("updates", "alice/lamp")).body == newer
    assert await hub.feed.query("alice", LogQuery()) == []
