"""Whose turn it is, when more logins come than can be checked."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore.server.auth import login_queue
from mdashcore.server.auth.login_queue import HALF_LIFE, LoginQueue, Ticket
from mdashcore.server.networks import network_of


def arrive(queue, network, name, now=0.0, *, known=False):
    """A login that has to wait: its ticket, and the one that has to go for it."""
    ticket = Ticket(network, name, known)
    queue.count(ticket, now)
    return ticket, queue.join(ticket, now)


def serve(queue, now=0.0):
    """All that wait, in the order of their turns, as (network, name)."""
    found = []
    while (ticket := queue.next(now)) is not None:
        found.append((ticket.network, ticket.name))
    return found


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_what_counts_as_one_client(address, network):
    """An IPv4 address, an IPv6 network; and whatever else there is, as it is."""
    assert network_of(address) == network


def test_the_order():
    """First the address that has asked least, then the name, then the one that came last."""
    queue = LoginQueue()
    for network, name in [("a", "x"), ("a", "x"), ("a", "y"), ("b", "z"), ("c", "z"), ("b", "w")]:
        arrive(queue, network, name)
    assert serve(queue) == [("c", "z"), ("b", "w"), ("b", "z"), ("a", "y"), ("a", "x"), ("a", "x")]


def test_a_name_that_has_logged_in_there_does_not_wait_for_its_neighbours():
    """Behind one address there may be many people, and one of them may guess."""
    queue = LoginQueue()
    for number in range(50):
        arrive(queue, "office", f"invented{number}")
    arrive(queue, "fresh", "bob")
    arrive(queue, "office", "alice", known=True)
    assert serve(queue)[:2] == [("office", "alice"), ("fresh", "bob")]


def test_a_success_is_not_counted():
    """An address whose people get in comes before one whose people fail, however many they are."""
    queue = LoginQueue()
    for number in range(20):
        ticket = Ticket("office", f"user{number}")
        queue.count(ticket, 0.0)
        queue.forgive(ticket, 0.0)
    queue.count(Ticket("stranger", "x"), 0.0)
    arrive(queue, "stranger", "y")
    arrive(queue, "office", "z")
    assert serve(queue) == [("office", "z"), ("stranger", "y")]


def test_attempts_fade():
    """After some minutes a mistake is forgotten."""
    queue = LoginQueue()
    for _ in range(8):
        queue.count(Ticket("a", "x"), 0.0)
    later = 10 * HALF_LIFE
    queue.count(Ticket("b", "x"), later)
    arrive(queue, "b", "x", later)
    arrive(queue, "a", "x", later)
    assert serve(queue, later) == [("a", "x"), ("b", "x")]


def test_what_is_counted_is_bounded(monkeypatch):
    """What is pushed out has asked least lately."""
    monkeypatch.setattr(login_queue, "MAX_COUNTED", 3)
    queue = LoginQueue()
    for number in range(9):
        queue.count(Ticket(f"a{number}", "x"), float(number))
    assert list(queue._networks._counts) == ["a6", "a7", "a8"]
    assert len(queue._names._counts) == 3


logins = st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz"), st.booleans())


@given(arrivals=st.lists(logins, max_size=60), size=st.integers(1, 20))
def test_the_queue_is_bounded_and_loses_nothing(arrivals, size):
    """Each login gets its turn, is refused, or waits: one of them, once."""
    queue = LoginQueue(size)
    tickets, refused = [], []
    for network, name, known in arrivals:
        ticket, last = arrive(queue, network, name, known=known)
        tickets.append(ticket)
        refused += [] if last is None else [last]
        assert len(queue) <= size
    assert len(queue) == min(size, len(tickets))
    if tickets:
        gone = tickets[-1]
        assert queue.leave(gone) == (gone not in refused)
        assert not queue.leave(gone)
        refused += [] if gone in refused else [gone]
    served = []
    while (ticket := queue.next(0.0)) is not None:
        served.append(ticket)
    assert Counter(map(id, served + refused)) == Counter(map(id, tickets))


@given(crowd=st.lists(st.integers(0, 99), min_size=1, max_size=100), size=st.integers(1, 30))
def test_a_fresh_address_is_next(crowd, size):
    """However many wait, each from an address of its own, and however full it is: a login from an address that has not
    asked lately is not refused, and has the next turn."""
    queue = LoginQueue(size)
    for number in crowd:
        arrive(queue, f"crowd{number}", "x")
    ticket, last = arrive(queue, "fresh", "alice")
    assert last is not ticket
    assert queue.next(0.0) is ticket


@given(weights=st.lists(st.integers(1, 20), min_size=2, max_size=8), turns=st.integers(1, 200))
def test_addresses_get_the_same_number_of_turns(weights, turns):
    """As long as each has a login waiting, none is more than one turn ahead of another: whatever they send."""
    queue = LoginQueue()
    for network, weight in enumerate(weights):
        arrive(queue, str(network), "0")
        for number in range(weight - 1):
            queue.join(Ticket(str(network), str(number)), 0.0)  # more of them wait: no place is gained by it
    got: Counter[str] = Counter()
    for turn in range(turns):
        ticket = queue.next(0.0)
        got[ticket.network] += 1
        arrive(queue, ticket.network, f"new{turn}")
        counts = [got[str(network)] for network in range(len(weights))]
        assert max(counts) - min(counts) <= 1


@given(names=st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
def test_names_of_one_address_get_the_same_number_of_turns(names):
    """A script that hammers one name leaves the others their turns."""
    queue = LoginQueue()
    for name in "abc":
        arrive(queue, "one", name)
    got: Counter[str] = Counter()
    for _ in names:
        ticket = queue.next(0.0)
        got[ticket.name] += 1
        arrive(queue, "one", ticket.name)
        assert max(got[name] for name in "abc") - min(got[name] for name in "abc") <= 1
