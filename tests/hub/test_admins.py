"""The last admin cannot be lost, whatever happens at the same time or is stopped in the middle."""

from __future__ import annotations

from contextlib import suppress
from itertools import count

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import _json
from mdashcore._errors import AlreadyExists, Conflict, NotFound, StorageError
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.admins import ROSTER_KEY
from mdashcore.hub.maintenance.backup import export_store, import_store
from mdashcore.hub.maintenance.check import check_store


def make(tools, documents=None):
    """Accounts on a store; called twice for one, it is that of two processes."""
    documents = documents or tools.documents()
    return Accounts(
        documents,
        now=lambda: 1000.0,
        entropy=tools.entropy(),
        on_revoked=lambda *_: None,
        contention=tools.contention(),
    )


def roster(documents):
    """The names in the roster."""
    return sorted(entry.partition("/")[0] for entry in stored(documents, "admins", ROSTER_KEY)["admins"])


def stored(documents, collection, key):
    """A document's value."""
    return _json.decode(documents.inner._collections[collection][key].body)


def admins(tools, accounts):
    """The names of the admins."""
    return [account.name for account in tools.run(accounts.all()) if account.admin and not account.removing]


def with_admins(tools, *names):
    """A store with these admins, and "carol", an account without that role."""
    documents = tools.documents()
    accounts = make(tools, documents)
    for name in names:
        tools.run(accounts.register(name, "hash", admin=True))
    tools.run(accounts.register("carol", "hash"))
    return documents, accounts


def test_the_roster_decides_which_accounts_are_admins(tools):
    """What stands in the account itself is a copy."""
    documents, accounts = with_admins(tools, "alice", "bob")
    assert roster(documents) == ["alice", "bob"]
    tools.run(accounts.set_password("carol", "x", admin=True))
    tools.run(accounts.set_password("bob", "x", admin=False))
    tools.run(accounts.set_password("alice", "x"))
    assert admins(tools, accounts) == ["alice", "carol"]
    assert [stored(documents, "accounts", name)["admin"] for name in ("alice", "bob", "carol")] == [True, False, True]
    tools.run(accounts.remove("alice"))
    assert (roster(documents), tools.run(accounts.get("carol")).admin) == (["carol"], True)


def test_what_is_refused_changes_nothing(tools):
    """An admin who cannot be demoted keeps the password too; a name that is taken adds no admin and removes none."""
    _, accounts = with_admins(tools, "alice")
    before = tools.run(accounts.get("alice"))
    for coroutine in (
        accounts.set_password("alice", "new", admin=False),
        accounts.remove("alice"),
        accounts.check_not_last_admin("alice"),
        accounts.register("alice", "other", admin=True),
        accounts.register("carol", "other", admin=True),
    ):
        with pytest.raises((Conflict, AlreadyExists)):
            tools.run(coroutine)
    assert tools.run(accounts.get("alice")) == before
    assert admins(tools, accounts) == ["alice"]


CHANGES = {
    "demote": lambda accounts, name: accounts.set_password(name, "x", admin=False),
    "remove": lambda accounts, name: accounts.remove(name),
}


@pytest.mark.parametrize("first", CHANGES)
@pytest.mark.parametrize("second", CHANGES)
@given(choices=st.lists(st.integers(0, 1), max_size=80))
def test_two_admins_who_undo_each_other(tools, first, second, choices):
    """In two processes, at the same moment: one of them succeeds, the other one hears why it does not."""
    documents, one = with_admins(tools, "alice", "bob")
    outcomes = tools.interleave([CHANGES[first](one, "bob"), CHANGES[second](make(tools, documents), "alice")], choices)
    errors = [outcome.error for outcome in outcomes]
    assert sorted(type(error).__name__ for error in errors) == ["Conflict", "NoneType"]
    assert len(admins(tools, one)) == 1


ACTS = {
    "demote alice": lambda accounts: accounts.set_password("alice", "x", admin=False),
    "demote bob": lambda accounts: accounts.set_password("bob", "x", admin=False),
    "promote carol": lambda accounts: accounts.set_password("carol", "x", admin=True),
    "demote carol": lambda accounts: accounts.set_password("carol", "x", admin=False),
    "remove alice": lambda accounts: accounts.remove("alice"),
    "remove bob": lambda accounts: accounts.remove("bob"),
    "remove carol": lambda accounts: accounts.remove("carol"),
    "make dave": lambda accounts: accounts.register("dave", "x", admin=True),
    "remove dave": lambda accounts: accounts.remove("dave"),
}


@given(
    acts=st.lists(st.sampled_from(sorted(ACTS)), min_size=2, max_size=5),
    choices=st.lists(st.integers(0, 4), max_size=150),
    stopped=st.integers(0, 40),
)
def test_an_admin_is_left_whatever_happens(tools, acts, choices, stopped):
    """Any changes in any order, in as many processes, one more stopped somewhere before: an account is left that can
    manage the others."""
    documents, one = with_admins(tools, "alice", "bob")
    allowed = (Conflict, NotFound, AlreadyExists, StorageError)
    if stopped:
        with suppress(*allowed):
            tools.stop(ACTS[acts[0]](one), stopped, tools.stops[0]())
    outcomes = tools.interleave([ACTS[act](make(tools, documents)) for act in acts], choices)
    assert all(outcome.error is None or isinstance(outcome.error, allowed) for outcome in outcomes)
    left = admins(tools, make(tools, documents))
    assert left
    for name, outcome in zip(acts, outcomes, strict=True):
        if outcome.error is None and acts.count(name) == 1:
            verb, _, who = name.partition(" ")
            others = [act for act in acts if act.endswith(who) and act != name]
            if not others and stopped == 0:
                assert (who in left) == (verb in ("make", "promote"))


@pytest.mark.parametrize("why", [0, 1])
@pytest.mark.parametrize("act", ["promote carol", "demote bob", "remove bob", "make dave"])
def test_a_change_that_is_stopped_anywhere(tools, act, why):
    """Also between roster and account: the roster decides, no account is half an admin, and the next try ends it."""
    for steps in count(1):
        documents, accounts = with_admins(tools, "alice", "bob")
        stopped = tools.stop(ACTS[act](accounts), steps, tools.stops[why]())
        other = make(tools, documents)
        for account in tools.run(other.all()):
            if not account.removing:
                assert tools.run(other.get(account.name)) == account
                assert account.admin == (account.name in roster(documents))
        try:
            tools.run(ACTS[act](other))
        except (NotFound, AlreadyExists):
            assert not stopped or act in ("remove bob", "make dave")
        expected = {"promote carol": 3, "demote bob": 1, "remove bob": 1, "make dave": 3}[act]
        assert len(admins(tools, other)) == expected, steps
        copies = {name: _json.decode(each.body) for name, each in documents.inner._collections["accounts"].items()}
        assert sorted(name for name, each in copies.items() if each["admin"]) == admins(tools, other)
        if not stopped:
            return


def test_what_is_left_of_an_account_makes_no_admin(tools):
    """An unfinished promotion of a removed account counts for nothing: a new account of the name is no admin."""
    documents, accounts = with_admins(tools, "alice")
    for steps in count(1):
        if "dave" in roster(documents):
            break
        tools.stop(accounts.register("dave", "hash", admin=True), steps, tools.stops[0]())
    assert tools.run(accounts.get("dave")) is None
    with pytest.raises(Conflict):
        tools.run(accounts.remove("alice"))
    assert not tools.run(accounts.register("dave", "other")).admin
    assert not tools.run(accounts.get("dave")).admin
    tools.run(accounts.set_password("carol", "x", admin=True))
    assert roster(documents) == ["alice", "carol"]  # swept


def old_store(tools, *names):
    """A store of a version without a roster and ids, with these admins."""
    documents = tools.documents()
    for name in (*names, "carol"):
        body = {"name": name, "password_hash": "hash", "admin": name in names, "created_at": 1.0}
        tools.run(documents.inner.put("accounts", name, _json.encode(body)))
    return documents


@given(choices=st.lists(st.integers(0, 2), max_size=60))
def test_an_older_store_gets_its_roster(tools, choices):
    """Once, of its accounts, by whatever reads or changes it first; also by two processes at the same time."""
    documents = old_store(tools, "alice", "bob")
    calls = [
        make(tools, documents).get("alice"),
        make(tools, documents).set_password("bob", "x", admin=False),
        make(tools, documents).set_password("alice", "x", admin=False),
    ]
    outcomes = tools.interleave(calls, choices)
    assert outcomes[0].value.name == "alice"
    assert sorted(type(outcome.error).__name__ for outcome in outcomes[1:]) == ["Conflict", "NoneType"]
    assert len(admins(tools, make(tools, documents))) == 1
    assert len(roster(documents)) == 1


def test_an_older_store_that_takes_no_writes_knows_its_admins(tools):
    """Its disk is full, say: they log in as what they are."""
    documents = old_store(tools, "alice")

    async def full(*args, **options):
        raise StorageError("the disk is full")

    documents.put = full
    accounts = make(tools, documents)
    assert tools.run(accounts.get("alice")).admin
    assert not tools.run(accounts.get("carol")).admin
    assert admins(tools, accounts) == ["alice"]


def test_admins_come_along_into_another_store(tools):
    """An export has the roster; one of an older store has none, and it is made again."""
    new, old = with_admins(tools, "alice", "bob")[0], old_store(tools, "bob")
    for documents, expected in [(new, ["alice", "bob"]), (old, ["bob"])]:
        source, target = (attrs.evolve(tools.backend(), documents=each) for each in (documents, tools.documents()))

        async def copy(source=source, target=target):
            lines = [line async for line in export_store(source)]

            async def given():
                for line in lines:
                    yield line

            await import_store(target, given())
            return await check_store(target)

        assert tools.run(copy())[1] == []
        assert admins(tools, make(tools, target.documents)) == expected


def test_a_store_whose_admins_are_lost(tools):
    """A check says so, and what helps."""
    documents, _ = with_admins(tools, "alice")
    tools.run(documents.inner.delete("accounts", "alice"))
    backend = attrs.evolve(tools.backend(), documents=documents)
    (problem,) = tools.run(check_store(backend))[1]
    assert "no account is an admin; make one with mdash serve --register-admin" in problem
