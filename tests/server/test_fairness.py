"""Whose turn a request of the slow lane has: its account's, or its address's."""

from __future__ import annotations

import pytest

from mdashcore.server.asgi import ON_KNOWN
from mdashcore.server.http import fairness
from mdashcore.server.http.fairness import FairApp

KEYS = {f"Bearer key{number}": "alice" for number in range(3)} | {"Bearer other": "bob"}


class Turns:
    """The owners of the turns that were waited for."""

    def __init__(self) -> None:
        self.owners = []

    def __call__(self, owner):
        self.owners.append(owner)
        return self

    async def give_way(self):
        """Return immediately."""


@pytest.fixture
def turns(monkeypatch):
    """In place of those of the loop."""
    turns = Turns()
    monkeypatch.setattr(fairness, "Turn", turns)
    return turns


async def authenticated(scope, receive, send):
    """An app that knows some keys."""
    account = KEYS.get(dict(scope["headers"]).get(b"authorization", b"").decode())
    if account is not None:
        scope[ON_KNOWN](account)


async def ask(app, authorization=None, address="203.0.113.7", query=b""):
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    await app({"type": "http", "headers": headers, "client": (address, 1), "query_string": query}, None, None)


async def test_keys_of_one_account_share_a_turn(turns):
    """Once each was used; before that, what it proves is not known."""
    app = FairApp(authenticated)
    for _ in range(2):
        for key in KEYS:
            await ask(app, key)
    assert turns.owners[: len(KEYS)] == [("client", "203.0.113.7")] * len(KEYS)
    assert turns.owners[len(KEYS) :] == ["alice"] * 3 + ["bob"]


async def test_invented_keys_do_not_multiply_a_client(turns):
    """However many a stranger sends, they are one client's: also as cookies and in queries."""
    app = FairApp(authenticated)
    for number in range(5):
        await ask(app, f"Bearer invented{number}")
        await ask(app, query=b"access_token=invented%d" % number)
        await ask(app)
    assert set(turns.owners) == {("client", "203.0.113.7")}


async def test_the_addresses_of_a_network_are_one_client(turns):
    """A customer of a provider has 2**64 IPv6 addresses."""
    app = FairApp(authenticated)
    await ask(app, address="2001:db8::1")
    await ask(app, address="2001:db8::ffff:2")
    assert set(turns.owners) == {("client", "2001:db8::/64")}


async def test_what_is_remembered_is_bounded(turns, monkeypatch):
    """The proof that was used last stays."""
    monkeypatch.setattr(fairness, "MAX_PROOFS", 2)
    app = FairApp(authenticated)
    for key in KEYS:
        await ask(app, key)
    turns.owners.clear()
    for key in reversed(KEYS):
        await ask(app, key)
    assert turns.owners == ["bob", "alice", ("client", "203.0.113.7"), ("client", "203.0.113.7")]
