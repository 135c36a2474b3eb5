"""Strangers who guess names and passwords: nobody else's login, and nobody else's device, has to wait for them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import argon2
import httpx
import pytest
import trio

STRANGERS = 100

ANSWERED = 10  # strangers, after which the others wait too: what is measured is not the burst of their first requests

USERS = 3  # whose first login is timed, one after the other

SLOWER = 10.0
"""How many times its quiet time a first login may take.

It waits for the check that runs, and shares the cores with this test's strangers: that is three times. The rest is for
machines that have other work.
"""


@pytest.fixture(scope="module")
def hashed() -> str:
    """The hash of "right", at the price that a server pays."""
    return argon2.PasswordHasher(parallelism=1).hash("right")


def client_at(server: Any, address: str) -> httpx.AsyncClient:
    """A client whose connections come from that address of the loopback network."""
    return server.http(transport=httpx.AsyncHTTPTransport(local_address=address))


async def log_in(server: Any, address: str, name: str) -> tuple[int, float]:
    """A login on a fresh connection: its status, and the seconds that it took."""
    async with client_at(server, address) as client:
        started = trio.current_time()
        response = await client.post("/login", json={"user": name, "password": "right"})
        return response.status_code, trio.current_time() - started


@asynccontextmanager
async def strangers(server: Any, address_of: Callable[[int], str]) -> AsyncIterator[Counter[int]]:
    """Have `STRANGERS` guess at names that they invent, as fast as they are answered; what they were answered."""
    statuses: Counter[int] = Counter()
    numbers = count()
    begun = trio.Event()

    async def guess(number: int) -> None:
        async with client_at(server, address_of(number)) as client:
            while True:
                body = {"user": f"invented{next(numbers)}", "password": "guess"}
                statuses[(await client.post("/login", json=body)).status_code] += 1
                if sum(statuses.values()) >= ANSWERED:
                    begun.set()

    async with trio.open_nursery() as nursery:
        for number in range(STRANGERS):
            nursery.start_soon(guess, number)
        await begun.wait()
        yield statuses
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("where", ["one address", "an address each"])
async def test_first_logins_while_strangers_invent_names(attacked, bystander, hashed, where):
    """A user whom the server has not seen yet, at another address, is let in meanwhile, about as fast as before."""
    for number in range(USERS):
        await attacked.account(f"user{number}", hashed=hashed)
        await attacked.account(f"early{number}", hashed=hashed)
    quiet = [await log_in(attacked, "127.0.0.2", f"early{number}") for number in range(USERS)]
    addresses = {"one address": lambda _: "127.0.0.3", "an address each": lambda number: f"127.0.1.{number + 1}"}
    async with strangers(attacked, addresses[where]) as statuses:
        logins = [await log_in(attacked, "127.0.0.2", f"user{number}") for number in range(USERS)]
        during = await bystander.call()
    after = await bystander.call()
    sys.stdout.write(
        f"{where}: logins before {_told(quiet)}; during {_told(logins)}; strangers got {dict(statuses)}\n"
        f"bystander before: {bystander.quiet}; during: {during}; after: {after}\n"
    )
    assert [status for status, _ in quiet + logins] == [200] * 2 * USERS
    assert _median(logins) <= SLOWER * _median(quiet)
    assert set(statuses) <= {401, 429}
    assert during.p95 <= bystander.quiet.bound
    assert after.p95 <= bystander.quiet.bound


def _median(logins: list[tuple[int, float]]) -> float:
    return sorted(seconds for _, seconds in logins)[len(logins) // 2]


def _told(logins: list[tuple[int, float]]) -> str:
    return ", ".join(f"{status} in {seconds * 1000:.0f} ms" for status, seconds in logins)
