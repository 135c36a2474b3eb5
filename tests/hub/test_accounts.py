"""Accounts and their keys."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import AlreadyExists, Conflict, InvalidInput, NotFound, StorageError, Unauthenticated
from mdashcore.hub.accounts import KEY_TOUCH, Accounts


@pytest.fixture(scope="session")
def make(tools):
    """Makes accounts on a new store: them, the store, and what was revoked."""

    def build():
        documents, revoked = tools.documents(), []
        accounts = Accounts(
            documents,
            now=lambda: 1000.0,
            entropy=tools.entropy(),
            on_revoked=lambda *key: revoked.append(key),
            contention=tools.contention(),
        )
        return accounts, documents, revoked

    return build


def valid(tools, accounts, secret):
    try:
        return tools.run(accounts.authenticate_key(secret)).account
    except Unauthenticated:
        return None


@pytest.mark.parametrize("name", ["", "a/b", "x" * 65, "a:b", "-a", "a\n", "\ud800", "é"])
def test_a_name_that_none_may_have(tools, make, name):
    """It is refused for a new account, and no account is found by it: it never reaches the store as a key."""
    accounts, documents, _ = make()
    with pytest.raises(InvalidInput):
        tools.run(accounts.register(name, "hash"))
    assert tools.run(accounts.get(name)) is None
    for coroutine in (accounts.set_password(name, "hash"), accounts.remove(name)):
        with pytest.raises(NotFound):
            tools.run(coroutine)
    assert not documents.inner._collections.get("accounts")


def test_accounts_are_listed_by_name(tools, make):
    """With what they may."""
    accounts, _, _ = make()
    for name in ("bob", "alice"):
        tools.run(accounts.register(name, "hash", admin=name == "bob"))
    assert [(a.name, a.admin, a.created_at) for a in tools.run(accounts.all())] == [
        ("alice", False, 1000.0),
        ("bob", True, 1000.0),
    ]


@given(choices=st.lists(st.integers(0, 2), max_size=20))
def test_of_many_registrations_of_a_name_one_succeeds(tools, make, choices):
    """The others are told; the password is the winner's."""
    accounts, _, _ = make()
    outcomes = tools.interleave([accounts.register("alice", f"hash{n}") for n in range(3)], choices)
    (won,) = [outcome.value for outcome in outcomes if outcome.value]
    assert sum(isinstance(outcome.error, AlreadyExists) for outcome in outcomes) == 2
    assert tools.run(accounts.get("alice")) == won


def test_a_new_password_revokes_what_the_old_one_opened(tools, make):
    """Also where only `admin` changes with it."""
    accounts, _, revoked = make()
    tools.run(accounts.register("alice", "old"))
    account = tools.run(accounts.set_password("alice", "new"))
    assert (account.password_hash, account.admin) == ("new", False)
    assert tools.run(accounts.set_password("alice", "new", admin=True)).admin
    assert revoked == [("alice", None)] * 2


def test_the_last_admin_stays_one(tools, make):
    """It is not removed, and a demotion can ask first; where there is no admin, every account may be removed."""
    accounts, _, _ = make()
    for name in ("alice", "bob", "carol"):
        tools.run(accounts.register(name, "hash", admin=name == "alice"))
    with pytest.raises(Conflict):
        tools.run(accounts.remove("alice"))
    with pytest.raises(Conflict):
        tools.run(accounts.check_not_last_admin("alice"))
    tools.run(accounts.check_not_last_admin("bob"))
    tools.run(accounts.set_password("bob", "hash", admin=True))
    tools.run(accounts.check_not_last_admin("alice"))
    tools.run(accounts.set_password("alice", "x", admin=False))
    with pytest.raises(Conflict):
        tools.run(accounts.remove("bob"))
    tools.run(accounts.remove("alice"))
    no_admin, _, _ = make()
    tools.run(no_admin.register("dave", "hash"))
    tools.run(no_admin.remove("dave"))
    assert tools.run(no_admin.all()) == []


def test_a_key_is_kept_as_a_hash(tools, make):
    """Its secret is in the answer that made it, and in no document and no `repr`."""
    accounts, documents, _ = make()
    tools.run(accounts.register("alice", "hash"))
    created = tools.run(accounts.create_key("alice", "ci"))
    assert valid(tools, accounts, created.secret) == "alice"
    for secret in ("", created.secret[:-1], created.key.hash, created.key.id, "\ud800"):
        assert valid(tools, accounts, secret) is None
    assert created.secret not in repr(created)
    for documents_of in documents.inner._collections.values():
        for document in documents_of.values():
            assert created.secret not in f"{document.key} {document.body}"


def test_a_key_knows_when_it_was_used(tools):
    """To the hour, and with one write in it at most; where the store does not take it, the key opens all the same."""
    documents, clock = tools.documents(), [1000.0]
    accounts = Accounts(documents, now=lambda: clock[0], entropy=tools.entropy(), on_revoked=lambda *key: None)
    tools.run(accounts.register("alice", "hash"))
    created = tools.run(accounts.create_key("alice"))

    def used():
        return [key.used_at for key in tools.run(accounts.keys("alice"))]

    assert used() == [None]
    before = documents.puts
    for now, seen, puts in (
        (1000, 1000, 1),
        (1000 + KEY_TOUCH - 1, 1000, 1),
        (1000 + KEY_TOUCH, 1000 + KEY_TOUCH, 2),
        (5, 5, 3),
    ):
        clock[0] = now
        assert valid(tools, accounts, created.secret) == "alice"
        assert (used(), documents.puts - before) == ([seen], puts)
    clock[0] = 10 * KEY_TOUCH
    documents.conflicts = 1
    assert (valid(tools, accounts, created.secret), used()) == ("alice", [5])

    async def full(*args, **kwargs):
        raise StorageError("the disk is full")

    documents.put = full
    assert (valid(tools, accounts, created.secret), used()) == ("alice", [5])


def test_a_removed_key_is_revoked(tools, make):
    """It, and no other; by its own account only."""
    accounts, documents, revoked = make()
    tools.run(accounts.register("alice", "hash"))
    one, other = (tools.run(accounts.create_key("alice")) for _ in range(2))
    for account, id in (("bob", one.key.id), ("alice", "key_none"), ("alice", "x" * 4000)):
        with pytest.raises(NotFound):
            tools.run(accounts.remove_key(account, id))
    tools.run(accounts.remove_key("alice", one.key.id))
    assert revoked == [("alice", one.key.id)]
    assert (valid(tools, accounts, one.secret), valid(tools, accounts, other.secret)) == (None, "alice")
    assert [key.id for key in tools.run(accounts.keys("alice"))] == [other.key.id]
    assert len(documents.inner._collections["key_owners"]) == 1


def test_a_removed_account_has_no_keys(tools, make):
    """All are revoked, and then the account; another's stay."""
    accounts, _, revoked = make()
    secrets = {}
    for name in ("al", "alice"):
        tools.run(accounts.register(name, "hash"))
        secrets[name] = tools.run(accounts.create_key(name)).secret
    tools.run(accounts.remove("al"))
    assert [key is None for _, key in revoked] == [True, False]
    assert (valid(tools, accounts, secrets["al"]), valid(tools, accounts, secrets["alice"])) == (None, "alice")


@given(choices=st.lists(st.integers(0, 3), max_size=40))
def test_a_key_that_is_removed_twice_at_the_same_time(tools, make, choices):
    """One of them has done it, the other finds nothing; the key opens nothing in between or afterwards."""
    accounts, _, revoked = make()
    tools.run(accounts.register("alice", "hash"))
    created = tools.run(accounts.create_key("alice"))

    async def use():
        return await accounts.authenticate_key(created.secret)

    coroutines = [accounts.remove_key("alice", created.key.id) for _ in range(2)] + [use(), use()]
    outcomes = tools.interleave(coroutines, choices)
    assert sorted(type(outcome.error).__name__ for outcome in outcomes[:2]) == ["NoneType", "NotFound"]
    assert set(revoked) == {("alice", created.key.id)}
    assert all(outcome.error is None or isinstance(outcome.error, Unauthenticated) for outcome in outcomes[2:])
    assert valid(tools, accounts, created.secret) is None
    assert tools.run(accounts.keys("alice")) == []  # also not brought back by having been used


@given(choices=st.lists(st.integers(0, 2), max_size=60))
def test_no_key_outlives_its_account(tools, make, choices):
    """Not even one that is being made while the account is removed: none is valid afterwards, and none is left."""
    accounts, documents, _ = make()
    tools.run(accounts.register("alice", "hash"))
    tools.run(accounts.create_key("alice"))
    outcomes = tools.interleave(
        [accounts.remove("alice"), accounts.create_key("alice"), accounts.create_key("alice")], choices
    )
    assert all(outcome.error is None or isinstance(outcome.error, NotFound) for outcome in outcomes)
    for outcome in outcomes[1:]:
        assert outcome.value is None or valid(tools, accounts, outcome.value.secret) is None
    for collection in ("accounts", "keys", "key_owners"):
        assert not documents.inner._collections.get(collection)
    with pytest.raises(NotFound):
        tools.run(accounts.create_key("alice"))


@given(choices=st.lists(st.integers(0, 3), max_size=40), whole=st.booleans(), due=st.booleans())
def test_a_key_that_was_removed_is_not_remembered(tools, choices, whole, due):
    """However its use and its removal, or that of the account, cross each other: afterwards it opens nothing."""
    times = iter([1000.0] * 3 + [1000.0 + due * 2 * KEY_TOUCH] * 1000)
    accounts = Accounts(
        tools.documents(),
        now=lambda: next(times),
        entropy=tools.entropy(),
        on_revoked=lambda *_: None,
        exclusive=True,
        contention=tools.contention(),
    )
    tools.run(accounts.register("root", "hash", admin=True))
    tools.run(accounts.register("alice", "hash"))
    key = tools.run(accounts.create_key("alice"))
    removal = accounts.remove("alice") if whole else accounts.remove_key("alice", key.key.id)
    uses = [accounts.authenticate_key(key.secret) for _ in range(3)]
    outcomes = tools.interleave([removal, *uses], choices)
    assert outcomes[0].error is None
    assert valid(tools, accounts, key.secret) is None


def test_a_key_that_is_in_use_is_not_read_each_time(tools):
    """In a store with one writer it is remembered; with several writers it is read each time."""
    for exclusive, reads in ((True, 0), (False, 2)):
        documents = tools.documents()
        accounts = Accounts(
            documents,
            now=lambda: 1000.0,
            entropy=tools.entropy(),
            on_revoked=lambda *_: None,
            exclusive=exclusive,
        )
        tools.run(accounts.register("alice", "hash"))
        secret = tools.run(accounts.create_key("alice")).secret
        assert valid(tools, accounts, secret) == "alice"
        before = documents.gets
        assert valid(tools, accounts, secret) == "alice"
        assert documents.gets - before == reads


def opened(tools, accounts, documents, what):
    """An account with two keys; the removal of one of them, of all, or a change of the password."""
    tools.run(accounts.register("root", "hash", admin=True))
    tools.run(accounts.register("alice", "hash"))
    keys = [tools.run(accounts.create_key("alice")) for _ in range(2)]
    change = {
        "key": lambda: accounts.remove_key("alice", keys[0].key.id),
        "account": lambda: accounts.remove("alice"),
        "password": lambda: accounts.set_password("alice", "new"),
    }[what]
    return keys, change


@pytest.mark.parametrize("why", [0, 1])
@pytest.mark.parametrize("what", ["key", "account", "password"])
def test_a_revocation_that_is_stopped_anywhere(tools, make, what, why):
    """What is not valid any more was told to be so; and the next try, if one is needed, comes to the end."""
    for steps in count(1):
        accounts, documents, revoked = make()
        keys, change = opened(tools, accounts, documents, what)
        stopped = tools.stop(change(), steps, tools.stops[why]())
        for key in keys:
            if valid(tools, accounts, key.secret) is None:
                assert ("alice", key.key.id) in revoked, steps
        account = tools.run(accounts.get("alice"))
        if account is None or account.password_hash == "new":
            assert ("alice", None) in revoked, steps
        try:
            tools.run(change())
        except NotFound:
            pass
        stored = documents.inner._collections
        left = {"key": 1, "account": 0, "password": 2}[what]
        assert (len(stored["keys"]), len(stored["key_owners"])) == (left, left), steps
        assert ("alice" in stored["accounts"]) == (what != "account"), steps
        if not stopped:
            return


def test_a_name_is_not_free_before_its_account_is_gone(tools, make):
    """Until a stopped removal is done there is no login, no key and no new account of the name; no admin is counted."""
    accounts, _, _ = make()
    for name in ("root", "alice"):
        tools.run(accounts.register(name, "hash", admin=True))
    tools.run(accounts.begin_removal("alice"))
    assert tools.run(accounts.get("alice")) is None
    assert tools.run(accounts.is_removing("alice"))
    with pytest.raises(AlreadyExists, match="being removed"):
        tools.run(accounts.register("alice", "other"))
    for coroutine in (accounts.set_password("alice", "other"), accounts.create_key("alice")):
        with pytest.raises(NotFound):
            tools.run(coroutine)
    assert [(account.name, account.removing) for account in tools.run(accounts.all())] == [
        ("alice", True),
        ("root", False),
    ]
    with pytest.raises(Conflict):
        tools.run(accounts.remove("root"))
    tools.run(accounts.remove("alice"))
    assert not tools.run(accounts.is_removing("alice"))
    assert tools.run(accounts.register("alice", "other")).password_hash == "other"
