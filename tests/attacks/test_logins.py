"""No login and no device of others has to wait for strangers that guess names and passwords."""

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

USERS = [1, pytest.param(5, marks=pytest.mark.proof)]  # whose first login is looked at, one after the other

CHECKS = STRANGERS // 2
"""Guesses that may be answered before a first login is: a queue that is not fair would answer all that wait.

At most four are checked when it comes. The rest had been checked, and this test had not read the answers yet.
"""


@pytest.fixture(scope="module")
def hashed() -> str:
    """The hash of "right", at the price that a server pays."""
    return argon2.PasswordHasher(parallelism=1).hash("right")


async def log_in(server: Any, address: str, name: str) -> int:
    """A login on a fresh connection from that address of the loopback network: its status."""
    async with server.http(transport=httpx.AsyncHTTPTransport(local_address=address)) as client:
        response = await client.post("/login", json={"user": name, "password": "right"})
        return int(response.status_code)


@asynccontextmanager
async def strangers(server: Any, address_of: Callable[[int], str]) -> AsyncIterator[Counter[int]]:
    """Have `STRANGERS` guess at names that they invent, as fast as they are answered; what they were answered."""
    statuses: Counter[int] = Counter()
    numbers = count()
    begun = trio.Event()

    async def guess(number: int) -> None:
        stream = await trio.open_tcp_stream(server.host, server.port, local_address=address_of(number))
        async with stream:
            while True:
                body = f'{{"user":"invented{next(numbers)}","password":"guess"}}'
                head = f"POST /api/v2/login HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                await stream.send_all((head + body).encode())
                answer = b""
                while not answer.endswith(b"}}"):
                    part = await stream.receive_some(4096)
                    assert part, answer
                    answer += part
                statuses[int(answer[9:12])] += 1
                if statuses.total() >= ANSWERED:
                    begun.set()

    async with trio.open_nursery() as nursery:
        for number in range(STRANGERS):
            nursery.start_soon(guess, number)
        await begun.wait()
        yield statuses
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("users", USERS)
async def test_first_logins_while_strangers_invent_names(attacked, bystander, hashed, users):
    """A user whom the server has not seen yet, at another address, is let in before the strangers that wait; whether
    these come from one address, or have one each."""
    addresses = {"one address": lambda _: "127.0.0.3", "an address each": lambda number: f"127.0.1.{number + 1}"}
    for where, address_of in addresses.items():
        names = [f"user{number} of {where}".replace(" ", "-") for number in range(users)]
        for user in names:
            await attacked.account(user, hashed=hashed)
        async with strangers(attacked, address_of) as statuses:
            for user in names:
                checked = statuses[401]
                assert await log_in(attacked, "127.0.0.2", user) == 200
                checked = statuses[401] - checked
                sys.stdout.write(f"{where}: {checked} guesses were checked meanwhile\n")
                assert checked <= CHECKS
            if where == "an address each" or users > 1:  # the checks themselves are the same
                await bystander.call_unharmed(f"guesses from {where}")
            assert set(statuses) <= {401, 429}
            sys.stdout.write(f"{where}: strangers got {dict(statuses)}\n")
