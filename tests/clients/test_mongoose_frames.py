"""Frames as real Mongoose OS devices and Cesanta's libraries write them."""

from __future__ import annotations

import pytest
import trio

REPORTED_OTA = {
    "app": "demo", "arch": "esp32", "commit_timeout": 0, "device_id": "d1", "fw_id": "20180601-100000/g1",
    "fw_version": "1.0", "is_committed": True, "mac": "30AEA4000000", "message": "idle", "partition": 0,
    "progress_percent": 0, "status": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "frame",
    [
        '{"src":"d1","method":"MyStat","params":{"t":1}}',
        '{"v":2,"src":"d1","dst":"","method":"MyStat","args":{"t":1}}',
        '{"id":17,"src":"d1","method":"MyStat","nr":true,"args":{"t":1}}',
        '{"src":"d1","tag":"x","method":"MyStat","params":{"t":1}}\n',
        '{"jsonrpc":"2.0","method":"MyStat","params":{"t":1}}',
    ],
    ids=["src", "args", "no reply wanted", "newline", "strict"],
)
async def test_a_notification_in_any_dialect_is_told(alice, frame):
    """`src`, `dst`, `tag`, `args`, `nr`, a trailing newline and a missing `jsonrpc` change nothing."""
    async with await alice.connect("d1") as device:
        await device.send(frame)
        assert (await alice.told("rpc.out.MyStat"))["data"] == {"t": 1}


async def test_answers_without_jsonrpc_and_with_src_are_taken(alice):
    """A response as Mongoose OS writes it, `src` and `dst` included, a quoted id, and a trailing newline."""
    async with await alice.connect("d1") as device, trio.open_nursery() as nursery:

        async def answer() -> None:
            request = await device.expect("Sys.Echo")
            assert type(request["id"]) is int
            assert "dst" not in request
            await device.send(f'{{"id":"{request["id"]}","src":"d1","dst":"","result":{{"ok": 1}}}}\n')

        nursery.start_soon(answer)
        assert (await alice.http.get("/devices/d1/rpc/Sys.Echo")).text == '{"ok": 1}'


async def test_an_error_in_http_style_is_passed_on(alice):
    """404 with Mongoose OS's own words arrives as it was sent."""
    async with await alice.connect("d1") as device, trio.open_nursery() as nursery:

        async def answer() -> None:
            request = await device.expect("No.Such")
            await device.send(
                {"id": request["id"], "src": "d1", "error": {"code": 404, "message": "No handler for No.Such"}}
            )

        nursery.start_soon(answer)
        response = await alice.http.get("/devices/d1/rpc/No.Such")
        assert response.json() == {"error": {"code": 404, "message": "No handler for No.Such"}}
        assert response.status_code == 422


async def test_a_null_result_is_an_answer(alice):
    """`result: null`, and no result at all, are success."""
    async with await alice.connect("d1") as device, trio.open_nursery() as nursery:

        async def answer() -> None:
            request = await device.expect("GPIO.Write")
            await device.send({"id": request["id"], "src": "d1"})

        nursery.start_soon(answer)
        assert (await alice.http.get("/devices/d1/rpc/GPIO.Write")).text == "null"


async def test_the_library_of_mdash_is_not_asked_what_it_said(alice):
    """A device that reports `ota` and `stats` by itself is shown with both, and not asked with Sys.GetInfo."""
    async with await alice.connect("d1") as device:
        await device.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"ota": REPORTED_OTA}}}})
        stats = {"ram_total": 280000, "ram_free": 200000, "ram_lwm": 190000}
        await device.send({"method": "Dash.Shadow.Update", "params": {"state": {"reported": {"stats": stats}}}})
        await device.send({"method": "Done"})
        await alice.told("rpc.out.Done")
        state = (await alice.http.get("/devices/d1/shadow")).json()["state"]
        assert state["reported"] == {"ota": REPORTED_OTA, "stats": stats}
        with pytest.raises(trio.TooSlowError), trio.fail_after(1.5):
            await device.expect("Sys.GetInfo")


async def test_the_first_generation_gets_its_replies(alice):
    """Devices of the first generation call with an `id`, and wait for the answer."""
    async with await alice.connect("d1") as device:
        await device.send(
            {"id": 1, "src": "d1", "method": "Dash.Heartbeat", "args": {"fw_id": "b1", "arch": "esp8266"}}
        )
        assert (await device.receive())["result"] is True
        update = {"state": {"reported": {"on": True}}, "version": 1}
        await device.send({"id": 2, "src": "d1", "method": "Dash.Shadow.Update", "args": update})
        assert (await device.receive())["result"]["version"] == 2
        await device.send({"id": 3, "src": "d1", "method": "Dash.Shadow.Update", "args": update})
        assert (await device.receive())["error"]["code"] == 409
        await device.send({"id": 4, "src": "d1", "method": "Dash.Shadow.Get"})
        state = (await device.receive())["result"]
        assert state["reported"] == {"ota": {"fw_id": "b1", "arch": "esp8266"}, "on": True}
        await device.send({"id": 5, "src": "d1", "method": "Dash.Unknown"})
        assert (await device.receive())["error"]["code"] == -32601


async def test_pieces_of_json_do_not_harm_the_session(alice):
    """One defective build sends every piece of a text as a frame: errors for it, and the session goes on."""
    async with await alice.connect("d1") as device:
        for piece in ('{"method":', '"Log",', '"params":{"fd":1,"data":"x"}', "}"):
            await device.send(piece)
            assert (await device.receive())["error"]["code"] in (-32700, -32600)
        await device.send({"method": "Log", "params": {"fd": 1, "data": "whole", "t": 1.5, "seq": 1}})
        assert (await alice.told("rpc.out.Log"))["data"]["data"] == "whole"


async def test_an_error_without_an_id_is_ignored(alice):
    """One library answers what it does not know with an id-less error: no answer to that, and no harm."""
    async with await alice.connect("d1") as device:
        await device.send({"error": {"code": -32601, "message": "unknown"}})
        await device.send({"id": 1, "method": "Dash.Shadow.Get"})
        assert await device.receive() == {"jsonrpc": "2.0", "id": 1, "result": {}}
