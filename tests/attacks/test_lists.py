"""A long list costs its own account only: its work gives way by time, and a client that does not read holds little."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

DEVICES = 500

STATE = {"text": "x" * 2000, "numbers": {f"n{number}": number for number in range(50)}}
"""2.5 KB, as a real device's."""

MIB = 2**20


@pytest.fixture
async def fleet(attacked):
    """The attacker's devices, and the key to list them."""
    key = await attacked.account("attacker")
    await attacked.devices("attacker", [f"d{number:05}" for number in range(DEVICES)], STATE)
    return key


METRICS = "/metrics?place=reported.numbers.n7"


PATHS = ["/devices", "/devices?filter=shadow.reported.text~y", "/logs", METRICS]
"""Without the first, the others stand for all: a list that is filtered is read in the same way."""


async def test_many_lists_at_a_time_keep_no_other_tenant_waiting(attacked, fleet, bystander, every):
    """Four of an account are answered at the same time, the others with 429 and when to try again."""
    for path in PATHS if every else PATHS[1:]:
        await keep_no_other_tenant_waiting(attacked, fleet, bystander, path)


async def keep_no_other_tenant_waiting(attacked, fleet, bystander, path):
    """Twenty clients list again and again."""
    answers: Counter[int] = Counter()
    wrong: list[str] = []

    async def list_again(client):
        while True:
            if path == "/logs":
                answer = await client.post(path, json={"name": "nothing", "limit": 1000})
            else:
                answer = await client.get(path)
            answers[answer.status_code] += 1
            if answer.status_code == 429:
                if answer.headers["retry-after"] != "1" or answer.json()["error"]["limit"] != "lists":
                    wrong.append(answer.text)
                await trio.sleep(0.1)
            elif path == METRICS:
                if answer.text.count("mdash_device_value{") != DEVICES:
                    wrong.append(answer.text[:1000])
            elif len(answer.json()) != (DEVICES if path == "/devices" else 0):
                wrong.append(answer.text[:1000])

    async with attacked.http(fleet) as client, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(list_again, client)
        await bystander.call_unharmed(f"20 lists of {path}")
        nursery.cancel_scope.cancel()
    assert set(answers) <= {200, 429}
    assert not wrong


async def test_readers_that_do_not_read_hold_little(attacked, fleet, bystander):
    """Each a piece of its list, and what the system's buffers hold; beyond four of an account they are refused."""
    keys = [fleet, *[await attacked.account(f"attacker{number}") for number in range(3)]]
    for number in range(3):
        await attacked.devices(f"attacker{number}", [f"d{n}" for n in range(DEVICES // 4)], {"text": "x" * 8000})
    before = attacked.descriptors
    streams = []
    statuses: Counter[bytes] = Counter()
    with attacked.peak_memory() as grown:
        for number in range(60):
            stream = await attacked.stream()
            streams.append(stream)
            head = f"GET /api/v2/devices HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {keys[number % 4]}\r\n\r\n"
            await stream.send_all(head.encode())
            statuses[(await stream.receive_some(64))[9:12]] += 1
        await bystander.call_unharmed("lists that nobody reads")
        assert grown() < 4 * 4 * 4 * MIB
    assert statuses == {b"200": 16, b"429": 44}
    for stream in streams:
        await trio.aclose_forcefully(stream)
    await attacked.until(lambda: attacked.descriptors < before + 4, "the lists are still there")
    async with attacked.http(fleet) as client:
        assert (await client.get("/devices")).status_code == 200
