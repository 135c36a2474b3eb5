"""The registry: one device per id, one token per device."""

from __future__ import annotations

from contextlib import suppress
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import AlreadyExists, InvalidInput, NotFound, StorageError, Unauthenticated
from mdashcore.hub.records.schema import TokenOwner
from mdashcore.hub.registry import Registry
from mdashcore.identity import DeviceKey, hash_token


def make(tools):
    """A registry, its store, and the devices whose tokens were revoked."""
    revoked = []
    documents = tools.documents()
    registry = Registry(
        documents,
        now=lambda: 1000.0,
        entropy=tools.entropy(),
        on_revoked=lambda key: revoked.append(str(key)),
        contention=tools.contention(),
    )
    return registry, documents, revoked


def valid(tools, registry, token):
    try:
        return tools.run(registry.authenticate(token)).id
    except Unauthenticated:
        return None


def stored(documents, collection):
    return documents.inner._collections.get(collection, {})


def test_a_device_is_found_by_its_token(tools):
    """And only by that; what is kept of it is a hash."""
    registry, documents, _ = make(tools)
    created = tools.run(registry.create("alice", "d1", "Pump"))
    assert (
        tools.run(registry.authenticate(created.token))
        == created.device
        == tools.run(registry.get(DeviceKey("alice", "d1")))
    )
    assert (created.device.name, created.device.created_at) == ("Pump", 1000.0)
    for token in (
        "",
        created.token[:-1],
        created.token + "x",
        created.token.lower(),
        "\ud800",
        created.device.token_hash,
    ):
        assert valid(tools, registry, token) is None
    text = b"".join(document.body for document in stored(documents, "devices").values()).decode()
    assert created.token not in text
    assert created.token not in repr(created)


def test_an_unknown_device(tools):
    """`NotFound` for every verb, also where another account has a device of that id."""
    registry, documents, _ = make(tools)
    tools.run(registry.create("alice", "d1"))
    for key in (DeviceKey("alice", "d2"), DeviceKey("bob", "d1")):
        for coroutine in (
            registry.get(key),
            registry.remove(key),
            registry.rename(key, "n"),
            registry.renew_token(key),
        ):
            with pytest.raises(NotFound):
                tools.run(coroutine)
    assert len(stored(documents, "devices")) == 1


@pytest.mark.parametrize("id", ["", "a/b", "..", "x" * 129, 7, None])
def test_an_id_that_none_may_have(tools, id):
    """Nothing is stored; None means that one is made up."""
    registry, documents, _ = make(tools)
    if id is None:
        assert tools.run(registry.create("alice", None)).device.id.startswith("dev_")
        return
    with pytest.raises(InvalidInput):
        tools.run(registry.create("alice", id))
    assert not stored(documents, "devices")
    assert not stored(documents, "token_owners")


def test_a_removed_device_leaves_nothing(tools):
    """Neither itself nor its token; and the connection is told of immediately."""
    registry, documents, revoked = make(tools)
    created = tools.run(registry.create("alice", "d1"))
    tools.run(registry.remove(DeviceKey("alice", "d1")))
    assert revoked == ["alice/d1"]
    assert valid(tools, registry, created.token) is None
    assert not stored(documents, "devices")
    assert not stored(documents, "token_owners")


def test_devices_are_listed_by_account(tools):
    """By id; no name of an account is taken for the beginning of another."""
    registry, _, _ = make(tools)
    for account, id in (("al", "b"), ("alice", "c"), ("al", "a")):
        tools.run(registry.create(account, id))
    assert [device.id for device in tools.run(registry.of("al"))] == ["a", "b"]


@given(choices=st.lists(st.integers(0, 3), max_size=40))
def test_of_many_registrations_of_an_id_one_succeeds(tools, choices):
    """The others get an error, and no token."""
    registry, documents, _ = make(tools)
    outcomes = tools.interleave([registry.create("alice", "d1", f"n{n}") for n in range(4)], choices)
    won = [outcome.value for outcome in outcomes if outcome.value]
    assert len(won) == 1
    assert sum(isinstance(outcome.error, AlreadyExists) for outcome in outcomes) == 3
    assert valid(tools, registry, won[0].token) == "d1"
    assert len(stored(documents, "token_owners")) == 1


@given(choices=st.lists(st.integers(0, 3), max_size=60), remove=st.booleans())
def test_at_most_one_token_is_valid(tools, choices, remove):
    """Renewals at the same time as each other and as a removal: the old token never survives, nor do two new ones."""
    registry, _, revoked = make(tools)
    old = tools.run(registry.create("alice", "d1")).token
    coroutines = [registry.renew_token(DeviceKey("alice", "d1")) for _ in range(3)]
    if remove:
        coroutines.append(registry.remove(DeviceKey("alice", "d1")))
    outcomes = tools.interleave(coroutines, choices)
    assert all(outcome.error is None or isinstance(outcome.error, NotFound) for outcome in outcomes)
    tokens = [outcome.value.token for outcome in outcomes[:3] if outcome.value]
    assert valid(tools, registry, old) is None
    assert sum(valid(tools, registry, token) is not None for token in tokens) == (0 if remove else 1)
    assert set(revoked) == {"alice/d1"}


@given(choices=st.lists(st.integers(0, 4), max_size=60), conflicts=st.integers(0, 5))
def test_changes_at_the_same_time_are_both_kept(tools, choices, conflicts):
    """A new name and a new token are both kept, in either order, and however often another writer is quicker."""
    registry, documents, _ = make(tools)
    tools.run(registry.create("alice", "d1"))
    documents.conflicts = conflicts
    outcomes = tools.interleave(
        [registry.rename(DeviceKey("alice", "d1"), "Pump"), registry.renew_token(DeviceKey("alice", "d1"))], choices
    )
    assert not [outcome.error for outcome in outcomes if outcome.error]
    assert tools.run(registry.get(DeviceKey("alice", "d1"))).name == "Pump"
    assert valid(tools, registry, outcomes[1].value.token) == "d1"


@pytest.mark.parametrize("why", [0, 1])
@pytest.mark.parametrize("what", ["remove", "renew"])
def test_a_revocation_that_is_stopped_anywhere(tools, what, why):
    """A token that is not valid any more was told to be so; and the next try, if one is needed, comes to the end."""
    for steps in count(1):
        registry, documents, revoked = make(tools)
        token = tools.run(registry.create("alice", "d1")).token
        change = registry.remove if what == "remove" else registry.renew_token
        stopped = tools.stop(change(DeviceKey("alice", "d1")), steps, tools.stops[why]())
        if valid(tools, registry, token) is None:
            assert revoked, steps
        if what == "remove":
            with suppress(NotFound):
                tools.run(registry.remove(DeviceKey("alice", "d1")))
            assert not stored(documents, "devices"), steps
            assert not stored(documents, "token_owners"), steps
        else:
            assert valid(tools, registry, tools.run(registry.renew_token(DeviceKey("alice", "d1"))).token) == "d1"
            assert valid(tools, registry, token) is None
        if not stopped:
            return


def test_a_new_token_is_not_lost_for_what_is_left_of_the_old_one(tools):
    """Where the storage fails when all is decided, the answer holds the token all the same."""
    registry, documents, _ = make(tools)
    tools.run(registry.create("alice", "d1"))

    async def fail(*args, **options):
        raise StorageError("away")

    documents.delete = fail
    assert valid(tools, registry, tools.run(registry.renew_token(DeviceKey("alice", "d1"))).token) == "d1"


def test_a_device_whose_removal_has_begun(tools):
    """Is still there, so that its removal can go on; it gets no other token, and nothing is to be begun with it."""
    registry, _, _ = make(tools)
    token = tools.run(registry.create("alice", "d1")).token
    tools.run(registry.check_stays(DeviceKey("alice", "d1")))
    tools.run(registry.begin_removal(DeviceKey("alice", "d1")))
    assert [device.id for device in tools.run(registry.of("alice"))] == ["d1"]
    assert valid(tools, registry, token) is None
    for coroutine in (registry.renew_token(DeviceKey("alice", "d1")), registry.check_stays(DeviceKey("alice", "d1"))):
        with pytest.raises(NotFound):
            tools.run(coroutine)
    with pytest.raises(AlreadyExists):
        tools.run(registry.create("alice", "d1"))
    tools.run(registry.remove(DeviceKey("alice", "d1")))
    with pytest.raises(NotFound):
        tools.run(registry.finish_removal(DeviceKey("alice", "d1")))


@given(choices=st.lists(st.integers(0, 4), max_size=60), conflicts=st.integers(0, 5))
def test_tags_that_are_changed_at_the_same_time_are_all_kept(tools, choices, conflicts):
    """Also beside a new name; a change that changes nothing writes nothing."""
    registry, documents, _ = make(tools)
    key = tools.run(registry.create("alice", "d1", None, {"a": True})).device.key
    documents.conflicts = conflicts
    changes = [registry.change_tags(key, {str(n): str(n)}) for n in range(4)]
    outcomes = tools.interleave([*changes, registry.rename(key, "Pump")], choices)
    assert not [outcome.error for outcome in outcomes if outcome.error]
    device = tools.run(registry.get(key))
    assert (device.name, device.tags) == ("Pump", {"a": True, **{str(n): str(n) for n in range(4)}})
    before = dict(stored(documents, "devices"))
    assert tools.run(registry.change_tags(key, {"a": True}))[1] is False
    assert stored(documents, "devices") == before


def test_a_device_that_is_being_removed_gets_no_tags(tools):
    """It does not exist any more."""
    registry, _, _ = make(tools)
    key = tools.run(registry.create("alice", "d1")).device.key
    tools.run(registry.begin_removal(key))
    with pytest.raises(NotFound):
        tools.run(registry.change_tags(key, {"a": True}))


@given(choices=st.lists(st.integers(0, 2), max_size=60))
def test_of_many_imports_of_a_token_one_succeeds(tools, choices):
    """The token belongs to that device; the others get an error, and are not there."""
    registry, documents, _ = make(tools)
    token, places = "Q2hhbmdlIG1lIQ-8f2a9c", [("alice", "d1"), ("alice", "d2"), ("bob", "d1")]
    digest = hash_token(token)
    outcomes = tools.interleave([registry.adopt(account, id, digest) for account, id in places], choices)
    (won,) = [outcome.value[0] for outcome in outcomes if outcome.value]
    assert sum(isinstance(outcome.error, AlreadyExists) for outcome in outcomes) == 2
    assert tools.run(registry.authenticate(token)) == won
    assert list(stored(documents, "devices")) == [str(won.key)]


@pytest.mark.parametrize("begun", range(12))
def test_an_import_that_waits_takes_no_token_from_another(tools, begun):
    """Wherever an import stands still while another one begins or ends, one of the two has the token."""
    for steps in range(12):
        registry, documents, _ = make(tools)
        digest = hash_token("Q2hhbmdlIG1lIQ-8f2a9c")
        imports = [registry.adopt("alice", id, digest) for id in ("d1", "d2")]
        outcomes = tools.interleave(imports, [0] * begun + [1] * steps + [0] * 60)
        (won,) = [outcome.value[0] for outcome in outcomes if outcome.value]
        assert list(stored(documents, "devices")) == [str(won.key)]
        assert tools.run(registry.authenticate("Q2hhbmdlIG1lIQ-8f2a9c")) == won


def test_a_token_of_another_service_belongs_to_one_device(tools):
    """An entry of the index that an interrupted import has left is replaced; a living one is not."""
    registry, _, _ = make(tools)
    digest = "ab" * 32
    tools.run(registry._owners.put(digest, TokenOwner("alice", "gone")))
    device, is_new = tools.run(registry.adopt("alice", "d1", digest))
    assert (device.token_hash, is_new) == (digest, True)
    assert tools.run(registry.adopt("alice", "d1", digest)) == (device, False)
    for account, id in (("alice", "d2"), ("bob", "d1")):
        with pytest.raises(AlreadyExists):
            tools.run(registry.adopt(account, id, digest))
    with pytest.raises(AlreadyExists):
        tools.run(registry.adopt("alice", "d1", "cd" * 32))
    tools.run(registry.remove(device.key))
    assert tools.run(registry.adopt("bob", "d1", digest))[1]
