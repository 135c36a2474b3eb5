"""An update that is followed, where its device or its server goes away at the wrong moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from mdashcore._errors import DeviceOffline, NotFound
from mdashcore.client import Client, Notifications, ServerUnreachable
from mdashcore.client._update_follower import START_TIMEOUT, UpdateFollower

QUEUED = {"id": "ota_1", "revision": 1, "state": "QUEUED", "reason": "", "changed": 1.0}


class Silence:
    """A socket on which nothing comes, until it is cut."""

    def __init__(self) -> None:
        self.cut = trio.Event()

    async def receive(self) -> bytes:
        await self.cut.wait()
        raise ServerUnreachable("cut")

    async def close(self) -> None:
        self.cut.set()


def followed(client: Client, answers: dict[str, tuple[int, Any]]) -> tuple[UpdateFollower, list[Silence]]:
    """An update of fan on a server that answers each method with a status and JSON. Returns its sockets, too."""
    sockets: list[Silence] = []

    def answer(request: httpx.Request) -> httpx.Response:
        kind = "device" if request.url.path.endswith("/fan") else request.method
        status, body = answers[kind]
        return httpx.Response(status, json=body)

    async def connect(start: int) -> Any:
        sockets.append(Silence())
        return sockets[-1]

    async def find_end() -> int:
        raise AssertionError("a start is given")

    client._http._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return UpdateFollower(client._http, Notifications(connect, find_end, 0, 3600.0), "fan", None), sockets


@pytest.mark.parametrize(
    ("status", "goes_on"),
    [(200, False), (409, True), (503, True)],
    ids=["canceled", "has begun at the last moment", "the server is away"],
)
async def test_a_device_that_goes_before_its_update_begins(
    tmp_path: Path, autojump_clock: Any, status: int, goes_on: bool
) -> None:
    """The update is taken back, unless it has begun or nothing is known of it: then it is followed."""
    (tmp_path / "fw").write_bytes(b"-")
    answers = {"device": (200, {"online": True}), "POST": (202, QUEUED), "DELETE": (status, {"error": _error()})}
    async with Client("http://test", key="mdk_x") as client:
        follower, _ = followed(client, answers)
        began = trio.current_time()
        if goes_on:
            await follower.begin(tmp_path / "fw", {}, queue=False, until=())
        else:
            with pytest.raises(DeviceOffline, match="gone before"):
                await follower.begin(tmp_path / "fw", {}, queue=False, until=())
        assert trio.current_time() - began == pytest.approx(START_TIMEOUT)


@pytest.mark.parametrize("in_history", [True, False])
async def test_an_end_that_was_not_told_is_in_the_history(autojump_clock: Any, in_history: bool) -> None:
    """When the server is back, the device may have a newer update already; one that is nowhere is an error."""
    past = {"id": "ota_1", "state": "SUPERSEDED", "reason": "a newer update was queued", "ended": 9.0}
    newest = {**QUEUED, "id": "ota_2", "history": [past] if in_history else []}
    async with Client("http://test", key="mdk_x") as client:
        follower, sockets = followed(client, {"GET": (200, newest)})
        follower.update = json.loads(json.dumps(QUEUED))

        async def cut() -> None:
            await trio.testing.wait_all_tasks_blocked()
            sockets[0].cut.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            if in_history:
                ended = await follower.follow()
                assert (ended["state"], ended["reason"]) == ("SUPERSEDED", past["reason"])
            else:
                with pytest.raises(NotFound, match="another update"):
                    await follower.follow()


def _error() -> dict[str, Any]:
    return {"code": -1, "message": "no"}
