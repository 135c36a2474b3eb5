"""The Python client, on both loops, against a real server."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from ports import free_port
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from mdashcore import firmware
from mdashcore._backoff import Backoff
from mdashcore._errors import (
    Conflict,
    DeviceOffline,
    InvalidInput,
    LimitReached,
    MdashError,
    NotFound,
    Overloaded,
    RpcError,
    StorageError,
    Unauthenticated,
)
from mdashcore.client import Client, ServerUnreachable, UnexpectedAnswer
from mdashcore.client._errors import error_of
from mdashcore.client._notifications import Notifications
from mdashcore.client._socket import ClientSocket
from mdashcore.client._update_follower import UpdateFollower
from mdashcore.job import JobOutcome
from mdashcore.ota import UpdateState
from mdashcore.server import errors
from mdashcore.server.config import ServerConfig
from mdashcore.server.run import open_server


async def test_devices_are_registered_changed_and_removed(run: Any) -> None:
    """Each with its token; the list can be filtered."""

    async def program(client: Client) -> None:
        created = await client.create_device("fan", name="Fan")
        assert created["token"].startswith("mdd_")
        with pytest.raises(Conflict):
            await client.create_device("fan")
        await client.rename_device("fan", "Fan 1")
        assert (await client.device("fan"))["name"] == "Fan 1"
        assert (await client.limit_deltas("fan", 4096))["delta_limit"] == 4096
        assert await client.renew_token("fan") != created["token"]
        await client.create_device("lamp")
        assert [each["id"] for each in await client.devices()] == ["fan", "lamp"]
        assert [each["id"] for each in await client.devices("name=Fan 1", "offline")] == ["fan"]
        page = await client.devices_page("offline", limit=1, sort="-name", fields=["id", "fw_version"])
        assert page.devices == [{"id": "lamp", "fw_version": None}]
        page = await client.devices_page("offline", limit=1, sort="-name", after=page.next)
        assert ([each["id"] for each in page.devices], page.next) == (["fan"], None)
        assert [each["id"] async for each in client.iterate_devices(sort="-name", fields=["id"])] == ["lamp", "fan"]
        assert [each["id"] async for each in client.iterate_devices(limit=1)] == ["fan"]
        await client.remove_device("fan")
        with pytest.raises(NotFound):
            await client.device("fan")

    await run(program)


async def test_tags_and_saved_filters(run: Any) -> None:
    """Tags are changed for one device and for many, and a saved filter finds devices by them."""

    async def program(client: Client) -> None:
        await client.create_device("fan", tags={"site": "x"})
        await client.create_device("lamp")
        assert (await client.change_tags("lamp", {"indoor": True}))["tags"] == {"indoor": True}
        preview = await client.change_tags_of_many({"site": "y"}, "tag.site=x", preview=True)
        assert preview == {"devices": 1, "changed": 1, "refused": []}
        done = await client.change_tags_of_many({"site": "y"}, devices=["fan", "lamp"])
        assert done == {"devices": 2, "changed": 2, "refused": []}
        await client.save_filter("inside", "tag=indoor tag.site=y")
        assert await client.saved_filters() == {"inside": "tag=indoor tag.site=y"}
        assert [each["id"] for each in await client.devices("@inside")] == ["lamp"]
        await client.remove_filter("inside")
        with pytest.raises(NotFound):
            await client.remove_filter("inside")

    await run(program)


async def test_a_call_gives_the_result_or_the_device_s_error(run: Any, lamp: Any) -> None:
    """With its code; and says that a device is offline."""

    async def program(client: Client) -> None:
        assert (await client.call("lamp", "Sys.GetInfo"))["arch"]
        assert await client.call("lamp", "GPIO.Toggle", {"pin": 2}, timeout=5) == {"value": 1}
        with pytest.raises(RpcError) as caught:
            await client.call("lamp", "Make.Coffee")
        assert (caught.value.code, caught.value.message) == (404, "No handler for Make.Coffee")
        await client.create_device("fan")
        with pytest.raises(DeviceOffline):
            await client.call("fan", "Sys.GetInfo")
        with pytest.raises(InvalidInput):
            await client.call("lamp", "Sys.GetInfo", timeout=1000)

    await run(program)


async def test_a_shadow_is_read_and_merged(run: Any) -> None:
    """`None` removes a key, and a version is a lock."""

    async def program(client: Client) -> None:
        await client.create_device("fan")
        accepted = await client.update_shadow("fan", desired={"on": True, "speed": 3})
        assert accepted["version"] == 1
        await client.update_shadow("fan", desired={"speed": None}, reported={"on": False}, version=1)
        with pytest.raises(Conflict):
            await client.update_shadow("fan", desired={"on": False}, version=1)
        assert (await client.shadow("fan"))["state"] == {
            "desired": {"on": True},
            "reported": {"on": False},
            "delta": {"on": True},
        }

    await run(program)


async def test_keys_limits_and_logs_are_the_account_s(run: Any) -> None:
    """The secret of a key is in the answer that makes it."""

    async def program(client: Client) -> None:
        made = await client.create_key("nightly")
        assert made["id"] in {each["id"] for each in await client.keys()}
        await client.remove_key(made["id"])
        assert await client.me() == {"name": "alice", "admin": False}
        limits = {each["name"]: each for each in (await client.limits())["limits"]}
        assert limits["keys"]["use"] == 1
        await client.create_device("fan")
        assert [each["name"] for each in await client.logs(device="fan", name="cre*")] == ["created"]

    await run(program)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A firmware zip."""
    path = tmp_path / "fw.zip"
    manifest = {"name": "virtual-device", "platform": "esp32", "version": "1.1", "build_id": "20260301-1"}
    with path.open("w+b") as file:
        firmware.write_image(file, manifest, {"app": bytes(20_000)})
    return path


async def test_an_update_is_awaited_to_its_end(run: Any, lamp: Any, image: Path) -> None:
    """With every state on the way; the caller commits it here."""
    states: list[str] = []

    async def program(client: Client) -> None:
        trial = await client.update(
            "lamp",
            image,
            options={"chunk_size": 2944},
            progress=lambda update: states.append(update["state"]),
            until={UpdateState.UNCOMMITTED},
        )
        assert trial["image"]["version"] == "1.1"
        await client.call("lamp", "OTA.Commit")
        async with client.notifications(0) as notifications:
            async for told in notifications:
                if told["name"] == "ota.COMMITTED":
                    break
        assert (await client.update_status("lamp"))["state"] == UpdateState.COMMITTED
        again = await client.update("lamp", image)
        assert again["state"] == UpdateState.ALREADY_INSTALLED

    await run(program)
    assert list(dict.fromkeys(states)) == ["QUEUED", "TRANSFERRING", "VERIFYING", "REBOOTING", "UNCOMMITTED"]


async def test_an_update_needs_a_device_and_an_image(run: Any, image: Path, tmp_path: Path) -> None:
    """What cannot be is said before anything is sent; a device that is offline gets its image later, if asked for."""

    async def program(client: Client) -> None:
        await client.create_device("fan")
        with pytest.raises(DeviceOffline):
            await client.update("fan", image)
        queued = await client.update("fan", image, queue=True, until={UpdateState.QUEUED})
        assert queued["state"] == UpdateState.QUEUED
        assert (await client.cancel_update("fan"))["state"] == UpdateState.CANCELED
        (tmp_path / "page.html").write_text("<!doctype html>" + " " * 5000)
        with pytest.raises(InvalidInput):
            await client.update("fan", tmp_path / "page.html", queue=True)
        with pytest.raises(NotFound):
            await client.update("nothing", image)

    await run(program)


async def test_a_job_is_previewed_made_and_removed(run: Any) -> None:
    """Its results can be read, and the values are there."""

    async def program(client: Client) -> None:
        for id in ("fan", "lamp"):
            await client.create_device(id)
        await client.update_shadow("fan", desired={"interval": 30})
        preview = await client.preview_job({"interval": 30}, "offline", devices=["fan", "lamp"])
        assert (preview["devices"], preview["changed"]) == (2, 1)
        async with client.notifications() as news:
            made = await client.create_job({"interval": 30}, all_devices=True, name="slower")
            async for told in news:
                if told["name"] == "job.COMPLETED":
                    break
        assert (await client.job(made["id"]))["counts"] == {"pending": 0, "changed": 1, "unchanged": 1, "failed": 0}
        assert [each["id"] for each in await client.jobs()] == [made["id"]]
        outcomes = [(each["device"], each["outcome"]) async for each in client.job_results(made["id"])]
        assert outcomes == [("fan", "UNCHANGED"), ("lamp", "CHANGED")]
        assert [each["device"] async for each in client.job_results(made["id"], JobOutcome.CHANGED)] == ["lamp"]
        with pytest.raises(Conflict):
            await client.cancel_job(made["id"])
        await client.remove_job(made["id"])
        assert await client.jobs() == []
        with pytest.raises(InvalidInput):
            await client.create_job({}, all_devices=True)

    await run(program)


async def test_a_rollout_is_made_changed_and_removed(run: Any, lamp: Any, image: Path) -> None:
    """Its devices are listed by outcome."""

    async def program(client: Client) -> None:
        review = await client.preview_rollout(image, {"all": True})
        assert (review["devices"], review["missing"]) == (1, [])
        with pytest.raises(InvalidInput, match='say "all": true'):
            await client.create_rollout(image, {"filter": []})
        made = await client.create_rollout(image, {"all": True, "approval": True})
        assert [each["id"] for each in await client.rollouts()] == [made["id"]]
        assert [each["device"] async for each in client.members(made["id"])] == ["lamp"]
        with pytest.raises(Conflict):
            await client.change_rollout(made["id"], "pause")
        async with client.notifications() as notifications:
            await client.change_rollout(made["id"], "abort")
            async for told in notifications:
                if told["name"] == "rollout.ABORTED":
                    break
        assert (await client.rollout(made["id"]))["state"] == "ABORTED"
        await client.remove_rollout(made["id"])

    await run(program)


async def test_an_image_is_kept_and_used(run: Any, lamp: Any, image: Path) -> None:
    """It is uploaded once, and then sent to a device and rolled out by its id; its bytes come back as they were."""
    data = await trio.Path(image).read_bytes()

    async def program(client: Client) -> None:
        made = await client.firmware.add(image, notes="first")
        assert await client.firmware.add(image, notes="second") == made
        with pytest.raises(Conflict, match="as a firmware zip"):
            await client.firmware.add(image, bare=True)
        await client.firmware.remove(made["id"])
        as_bare = await client.firmware.add(image, bare=True)
        assert await client.firmware.add(image, bare=True) == as_bare
        with pytest.raises(Conflict, match="as a bare image"):  # devices would get it without its checks
            await client.firmware.add(image)
        await client.firmware.remove(as_bare["id"])
        made = await client.firmware.add(image, notes="first")
        assert await client.firmware.list() == [made]
        assert (await client.firmware.change(made["id"], name="Lamps"))["name"] == "Lamps"
        pieces = [piece async for piece in client.firmware.download(made["id"])]
        assert b"".join(pieces) == data
        ended = await client.update("lamp", firmware=made["id"], options={"commit_timeout": 0})
        assert ended["state"] == UpdateState.COMMITTED
        devices = await client.firmware.devices(made["id"])
        assert [each["id"] for each in devices["running"]] == ["lamp"]
        (counted,) = await client.firmware.list(devices=True)
        assert counted["devices"] == devices["counts"]
        rollout = await client.create_rollout(None, {"all": True, "approval": True}, firmware=made["id"])
        with pytest.raises(Conflict, match=rollout["id"]):
            await client.firmware.remove(made["id"])
        async with client.notifications() as notifications:
            await client.change_rollout(rollout["id"], "abort")
            async for told in notifications:
                if told["name"] == "rollout.ABORTED":
                    break
        await client.firmware.remove(made["id"])
        with pytest.raises(NotFound):
            await client.firmware.get(made["id"])
        for wrong in ({}, {"file": image, "firmware": made["id"]}):
            with pytest.raises(InvalidInput, match="either a file or one"):
                await client.update("lamp", **wrong)

    await run(program)


async def test_notifications_go_on_where_they_were(
    run: Any, alice: Any, cable: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a cut each comes once and in order, those of the time in between too; the log tells of it once."""
    monkeypatch.setattr("mdashcore.client._notifications.BACKOFF", Backoff(first=0.01, most=0.02))
    caplog.set_level(logging.INFO, "mdashcore.client")
    opened, heard = trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def signal(event: trio.Event) -> None:
        token.run_sync_soon(event.set)

    async def program(_: Client) -> list[tuple[str, str]]:
        found = []
        async with Client(cable.url, key=alice.key) as client, client.notifications() as notifications:
            signal(opened)
            async for told in notifications:
                found.append((told["name"], told["id"]))
                signal(heard)
                if told["id"] == "d4":
                    return found
        raise AssertionError

    async with trio.open_nursery() as nursery:

        async def disturb() -> None:
            await opened.wait()
            await alice.register("d1")
            await heard.wait()
            await cable.cut()
            await alice.register("d2")
            await alice.register("d3")
            await cable.refused.wait()
            cable.join()
            await alice.register("d4")

        await alice.register("before")
        nursery.start_soon(disturb)
        found = await run(program)
    assert found == [("created", f"d{number}") for number in (1, 2, 3, 4)]
    told = [record.getMessage() for record in caplog.records if record.name == "mdashcore.client"]
    assert len(told) == 2
    assert "cut" in told[0]
    assert "goes on" in told[1]


async def test_a_stream_ends_with_an_error_if_the_server_stays_away(
    alice: Any, cable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time that the caller has given."""
    monkeypatch.setattr("mdashcore.client._notifications.BACKOFF", Backoff(first=0.01, most=0.02))
    async with Client(cable.url, key=alice.key) as client, client.notifications(max_outage=0.1) as notifications:
        await cable.cut()
        with pytest.raises(ServerUnreachable):
            await anext(notifications)


async def test_a_revoked_key_ends_the_stream(run: Any) -> None:
    """It is not tried again."""

    async def program(client: Client) -> None:
        made = await client.create_key()
        async with Client(client._http.server, key=made["key"]) as other, other.notifications() as notifications:
            await client.remove_key(made["id"])
            with pytest.raises(Unauthenticated, match="revoked"):
                await anext(notifications)

    await run(program)


async def test_it_works_over_tls(tmp_path: Path) -> None:
    """Requests and the stream trust what the context trusts, and nothing else."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    config = ServerConfig(bind="127.0.0.1:0", store="memory://", certfile=tmp_path / "server.pem")
    async with open_server(config) as server:
        accounts = server.service.hub.accounts
        await accounts.register("alice", "-")
        key = (await accounts.create_key("alice")).secret
        async with Client(server.url, key=key, ssl_context=trusted) as client:
            async with client.notifications() as notifications:
                await client.create_device("fan")
                assert (await anext(notifications))["name"] == "created"
        async with Client(server.url, key=key, ssl_context=ssl.create_default_context()) as client:
            with pytest.raises(ServerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                await client.me()
            with pytest.raises(ServerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                async with client.notifications(0):
                    pass


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 502 Bad\r\ncontent-length: 2\r\n\r\nno", b""])
async def test_a_stranger_is_no_server(serving: Any, answer: bytes) -> None:
    """Another program at the address, a proxy without a server behind it, or a hang-up: an error that says so."""

    async def stranger(stream: trio.SocketStream) -> None:
        await stream.receive_some(2**16)
        await stream.send_all(answer)
        await stream.aclose()

    async with serving(stranger) as port, Client(f"http://127.0.0.1:{port}", key="mdk_x") as client:
        with pytest.raises((ServerUnreachable, UnexpectedAnswer)):
            await client.me()
        with pytest.raises((ServerUnreachable, UnexpectedAnswer)):
            async with client.notifications(0):
                pass


async def test_nothing_listens_there() -> None:
    """The error names the address and the reason."""
    port = free_port()
    async with Client(f"http://127.0.0.1:{port}", key="mdk_x") as client:
        with pytest.raises(ServerUnreachable, match=rf"127.0.0.1:{port}.*refused|failed"):
            await client.me()
        with pytest.raises(ServerUnreachable, match="refused"):
            async with client.notifications(0):
                pass


def stranger_socket(frames: bytes) -> Any:
    """A handler that accepts a handshake, sends bytes right behind its answer, and then reads without a word."""

    async def serve(stream: trio.SocketStream) -> None:
        protocol = ServerProtocol()
        while not (events := protocol.events_received()):
            protocol.receive_data(await stream.receive_some(2**16))
        protocol.send_response(protocol.accept(events[0]))  # type: ignore[arg-type]
        await stream.send_all(b"".join(protocol.data_to_send()) + frames)
        async for _ in stream:
            pass

    return serve


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=False)


async def test_messages_may_come_in_pieces_right_behind_the_handshake(serving: Any) -> None:
    """With a ping between the pieces."""
    text = b'{"name":"online","id":"lamp","offset":7,"time":1.0}'
    frames = frame(Opcode.TEXT, text[:5], fin=False) + frame(Opcode.PING, b"?") + frame(Opcode.CONT, text[5:])
    async with serving(stranger_socket(frames)) as port, Client(f"http://127.0.0.1:{port}", key="k") as client:
        async with client.notifications(0) as notifications:
            assert (await anext(notifications))["id"] == "lamp"
            assert notifications.cursor == 8


async def test_a_log_that_was_reset_is_followed(serving: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A server restored from a backup sends smaller offsets than asked for: they are given, with one warning."""
    texts = [b'{"name":"online","id":"lamp","offset":%d,"time":1.0}' % offset for offset in (300, 301)]
    frames = b"".join(frame(Opcode.TEXT, text) for text in texts)
    async with serving(stranger_socket(frames)) as port, Client(f"http://127.0.0.1:{port}", key="k") as client:
        async with client.notifications(500) as notifications:
            assert [(await anext(notifications))["offset"] for _ in texts] == [300, 301]
            assert notifications.cursor == 302
    assert len([record for record in caplog.records if "reset" in record.getMessage()]) == 1


async def test_an_update_ends_although_its_end_was_not_told(
    alice: Any, cable: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a lost connection the update is read again: the log of a restored server may not have its end."""
    monkeypatch.setattr("mdashcore.client._notifications.BACKOFF", Backoff(first=0.01, most=0.02))
    await alice.register("fan")
    queued = trio.Event()

    async def lose_the_end(notifications: Notifications) -> None:
        await queued.wait()
        await cable.cut()
        await cable.refused.wait()
        async with Client(alice.server.url, key=alice.key) as near:
            await near.cancel_update("fan")
        notifications.cursor += 1000  # as if the log had been longer
        cable.join()

    async with Client(cable.url, key=alice.key) as client, client.notifications() as notifications:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose_the_end, notifications)
            with trio.fail_after(20):
                follower = UpdateFollower(client._http, notifications, "fan", lambda update: queued.set())
                await follower.begin(image, {}, queue=True, until=())
                update = await follower.follow()
    assert update["state"] == UpdateState.CANCELED


async def test_what_comes_before_the_answer_to_a_ping_is_read(serving: Any) -> None:
    """A busy fleet may talk before it: that blocks nothing, and nothing is lost."""
    sent = [b'{"name":"online","id":"d%d"}' % number for number in range(50)]
    frames = b"".join(frame(Opcode.TEXT, text) for text in sent)
    async with serving(stranger_socket(frames)) as port, Client(f"http://127.0.0.1:{port}", key="k") as client:
        socket = await client.open_socket()
        with trio.fail_after(5):
            await socket.ping()
            assert [await socket.receive() for _ in sent] == sent
        await socket.close()


async def test_a_silent_server_is_found_out(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets a ping after a while, and is given up if it does not answer."""
    monkeypatch.setattr("mdashcore.client._socket.PING_INTERVAL", 0.05)
    monkeypatch.setattr("mdashcore.client._socket.PING_TIMEOUT", 0.05)
    async with serving(stranger_socket(b"")) as port, Client(f"http://127.0.0.1:{port}", key="k") as client:
        async with client.notifications(0, max_outage=0) as notifications:
            with pytest.raises(ServerUnreachable, match="does not answer any more"):
                await anext(notifications)


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("x"),
        Unauthenticated("x"),
        NotFound("x"),
        Conflict("x"),
        RpcError(-7, "x", {"more": 1}),
        LimitReached("keys", "x"),
        Overloaded("x", retry_after=3.0),
        DeviceOffline("x"),
        StorageError("secret"),
        MdashError("x"),
    ],
)
def test_an_error_of_the_server_is_the_same_at_the_client(error: MdashError) -> None:
    """Its class, its text and what belongs to it; but for the words of a storage, which are the server's own."""
    headers = errors.headers(error)
    status = errors.status_of(error)
    found = error_of(status, errors.encoded(error), float(headers.get("Retry-After", 0)))
    assert type(found) is type(error)
    if not isinstance(error, StorageError):
        assert (str(found), vars(found)) == (str(error), vars(error))


@pytest.mark.parametrize("credentials", [{}, {"key": "mdk_x", "user": ("alice", "secret")}])
def test_a_client_has_one_credential(credentials: Any) -> None:
    """Not none, and not two."""
    with pytest.raises(InvalidInput):
        Client("http://localhost", **credentials)


@pytest.mark.parametrize(
    "credentials",
    [
        *({"key": key} for key in ("secret\n", "secret\r\nX-More: 1", "se cret", "secret\x00", "secreté", "")),
        *(
            {"user": user}
            for user in (("al:ice", "secret"), ("alice", "secret\n"), ("alice", "secret\udcff"), ("", "x"))
        ),
    ],
)
def test_credentials_that_no_header_can_hold_are_refused(credentials: Any) -> None:
    """Before anything is sent, and without their text in the error."""
    with pytest.raises(InvalidInput) as caught:
        Client("http://localhost", **credentials)
    assert "secret" not in repr(caught.value)


async def test_a_password_may_have_any_text() -> None:
    """With colons, spaces and letters of any language."""
    async with Client("http://localhost", user=("älice", "a: ß 🔑")):
        pass


@pytest.mark.parametrize("id", ["", ".", ".."])
async def test_an_id_cannot_lead_to_another_path(id: str) -> None:
    """One that a URL would lose is refused before anything is sent."""
    async with Client("http://127.0.0.1:1", key="mdk_x") as client:
        with pytest.raises(InvalidInput):
            await client.renew_token(id)
        with pytest.raises(InvalidInput):
            await client.remove_key(id)


async def test_a_proxy_of_the_environment_gets_nothing(
    alice: Any, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would read the key."""
    dialled = []

    async def proxy(stream: trio.SocketStream) -> None:
        dialled.append(stream)

    async with serving(proxy) as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with Client(alice.server.url, key=alice.key) as client:
            assert (await client.me())["name"] == "alice"
    assert not dialled


async def test_short_calls_find_a_silent_server_out_too(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The silence counts from one call to the next."""
    monkeypatch.setattr("mdashcore.client._socket.PING_INTERVAL", 0.05)
    monkeypatch.setattr("mdashcore.client._socket.PING_TIMEOUT", 0.05)
    async with serving(stranger_socket(b"")) as port, Client(f"http://127.0.0.1:{port}", key="k") as client:
        async with client.notifications(0, max_outage=0) as notifications:

            async def call_shortly() -> None:
                while True:
                    with trio.move_on_after(0.02):
                        await anext(notifications)

            with trio.fail_after(10), pytest.raises(ServerUnreachable, match="does not answer any more"):
                await call_shortly()


async def test_short_calls_do_not_dial_immediately(
    alice: Any, cable: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait after a failure goes on in the next call."""
    monkeypatch.setattr("mdashcore.client._notifications.BACKOFF", Backoff(first=60.0, most=60.0))
    async with Client(cable.url, key=alice.key) as client, client.notifications() as notifications:
        await cable.cut()
        while not caplog.records:
            with trio.move_on_after(0.05):
                await anext(notifications)
        for _ in range(3):
            with trio.move_on_after(0.05):
                await anext(notifications)
        assert not cable.refused.is_set()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("limit", [b"", b',"limit":"sockets"'])
async def test_a_server_that_is_full_is_tried_again_before_the_outage_is_too_long(serving: Any, limit: bytes) -> None:
    """It may count the lost connection still; and it may ask for a wait that is longer than the caller's."""
    body = b'{"error":{"code":429,"message":"full"%s}}' % limit
    full = b"HTTP/1.1 429 Full\r\nRetry-After: 99999\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    text = b'{"name":"online","id":"lamp","offset":7,"time":1.0}'
    connections = 0

    async def server(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await stranger_socket(frame(Opcode.CLOSE, b"\x03\xe9"))(stream)
        elif connections == 2:
            await stream.receive_some(2**16)
            await stream.send_all(full)
        else:
            await stranger_socket(frame(Opcode.TEXT, text))(stream)

    async with serving(server) as port, Client(f"http://127.0.0.1:{port}", key="k") as client:
        async with client.notifications(0, max_outage=0.8) as notifications:
            with trio.fail_after(10):
                assert (await anext(notifications))["offset"] == 7
    assert connections == 3


class SlowStream:
    """A stream that takes a second for each send, and gives one piece of data."""

    def __init__(self, data: bytes = b"") -> None:
        self.sent: list[bytes] = []
        self._data = data

    async def send(self, data: bytes) -> None:
        await trio.sleep(1)
        self.sent.append(data)

    async def receive(self, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._data:
            await trio.sleep_forever()
        data, self._data = self._data, b""
        return data


def socket_over(stream: Any) -> ClientSocket:
    """A socket behind its handshake."""
    return ClientSocket(stream, ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN), "localhost")


async def test_a_cancelled_caller_leaves_no_part_of_a_frame(autojump_clock: Any) -> None:
    """What the protocol has given to be sent is sent."""
    stream = SlowStream()
    with trio.move_on_after(0.5):
        await socket_over(stream).ping()
    assert len(b"".join(stream.sent)) == 7  # a ping of one byte, masked


async def test_an_answer_is_found_after_a_pause_of_the_caller(autojump_clock: Any) -> None:
    """A time that is over while no call waits does not end a connection on which something has come."""
    socket = socket_over(SlowStream(frame(Opcode.TEXT, b"{}")))
    socket._asked = trio.current_time()
    await trio.sleep(3600)
    assert await socket.receive() == b"{}"
