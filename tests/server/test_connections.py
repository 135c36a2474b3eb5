"""Which connections end when file descriptors are short."""

from __future__ import annotations

import resource
from contextlib import AsyncExitStack, ExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mdashcore.server.config import ServerConfig
from mdashcore.server.gateway import (
    MAX_WAITING_HANDSHAKES,
    MIN_WAITING_HANDSHAKES,
    SHORT_PART,
    WAITING_PART,
    _max_waiting,
)
from mdashcore.server.http.connection import HttpConnection
from mdashcore.server.http.connections import ACCOUNT_SHARE, ENDED_TOGETHER, QUIET_TIME, Connections
from mdashcore.server.run import open_server
from mdashcore.server.service import ServiceSettings
from mdashcore.trio.pacing import STORE_CALLERS
from mdashcore.trio.transport.readiness import Inflow
from mdashcore.trio.turns import _turns

TIMEOUT = 60.0  # seconds for what takes a moment, on a machine that has other work


def connection(account: str | None) -> HttpConnection:
    """An idle connection that waits for its client; a stranger's without an account."""
    stream, _ = trio.testing.memory_stream_pair()
    made = HttpConnection(stream, Inflow(stream, 2**16), trio.CancelScope())
    made.quiet_since = -10.0  # long quiet, at the times below
    if account is not None:
        made.identify(account)
    return made


def leave(connections: Connections, ended: list[HttpConnection]) -> None:
    """Do as the tasks of connections do that have been ended."""
    for one in ended:
        if one.scope.cancel_called:
            with connections.member(one):
                pass


@given(strangers=st.integers(1, 40), known=st.integers(1, 5), times=st.integers(1, 10))
def test_known_clients_stay_until_ended_strangers_have_gone(strangers: int, known: int, times: int) -> None:
    """However often room is asked for before an ended stranger's task has run, no known client ends; after that, the
    first to end is one that waits for its client."""

    async def run() -> None:
        connections = Connections()
        with ExitStack() as theirs, ExitStack() as ours:
            crowd = [connection(None) for _ in range(strangers)]
            clients = [connection(f"account-{number}") for number in range(known)]
            for one in crowd:
                theirs.enter_context(connections.member(one))
            for one in clients:
                ours.enter_context(connections.member(one))
                ours.enter_context(one.waiting())
            for _ in range(times):
                assert connections.make_room(0.0)
            while not all(one.scope.cancel_called for one in crowd):
                assert connections.make_room(0.0)
            assert connections.make_room(0.0)
            assert not any(one.scope.cancel_called for one in clients)
            theirs.close()
            for _ in clients:
                assert connections.make_room(0.0)
                leave(connections, clients)
            assert all(one.scope.cancel_called for one in clients)

    trio.run(run)


async def test_clients_that_have_just_come_do_not_pay_for_an_account_with_very_many_requests() -> None:
    """Connections of that account end, until it has its share and nothing more."""
    connections = Connections()
    with ExitStack() as members:
        many = [connection("many") for _ in range(ACCOUNT_SHARE + 3)]
        newcomers = [connection(None) for _ in range(3)]
        for one in (*many, *newcomers):
            members.enter_context(connections.member(one))
        for one in newcomers:
            one.quiet_since = 0.0
        for number in range(1, 4):
            assert connections.make_room(0.0)
            assert sum(one.scope.cancel_called for one in many) == number
            leave(connections, many)
        assert not any(one.scope.cancel_called for one in newcomers)


@pytest.mark.parametrize("number", [1, ACCOUNT_SHARE, ACCOUNT_SHARE + 1])
async def test_connections_at_work_end_beyond_the_share_of_an_account(number: int) -> None:
    """One connection ends of the account that has the most, if it has more than its share; else there is no room."""
    connections = Connections()
    with ExitStack() as members:
        many, other = [connection("many") for _ in range(number)], connection("other")
        for one in (*many, other):
            members.enter_context(connections.member(one))
        assert connections.make_room(0.0) == (number > ACCOUNT_SHARE)
        assert sum(one.scope.cancel_called for one in many) == (number > ACCOUNT_SHARE)
        assert not other.scope.cancel_called


@pytest.mark.parametrize("by_descriptor", [True, False])
async def test_handshakes_that_wait_end_beyond_the_share_of_a_network(by_descriptor: bool) -> None:
    """If descriptors are short: those that came last, before any known client, and none of other networks. They have no
    part in the bound on other connections, so they do not end for it.
    """
    connections, most = Connections(40), 10
    with ExitStack() as members:
        known = connection("known")
        members.enter_context(connections.member(known))
        members.enter_context(known.waiting())
        many, others = [connection(None) for _ in range(most + 20)], [connection(None) for _ in range(most)]
        for network, each in [("many", many), ("others", others)]:
            for one in each:
                one._network = network
                members.enter_context(connections.member(one))
                members.enter_context(connections.aside(one))
        for _ in range(2):
            assert connections.make_room(0.0, by_descriptor=by_descriptor)
        ended = [one.scope.cancel_called for one in many]
        assert ended == [False] * most + [by_descriptor] * 20
        assert not any(one.scope.cancel_called for one in others)
        assert known.scope.cancel_called != by_descriptor


@pytest.mark.parametrize(
    ("descriptors", "waiting"),
    [
        (resource.RLIM_INFINITY, MAX_WAITING_HANDSHAKES),
        (2**20, MAX_WAITING_HANDSHAKES),
        (20_000, (20_000 - 4096) // WAITING_PART),
        (5000, MIN_WAITING_HANDSHAKES),
        (1024, 1024 // SHORT_PART),
    ],
)
def test_waiting_handshakes_leave_descriptors(monkeypatch: pytest.MonkeyPatch, descriptors: int, waiting: int) -> None:
    """For the clients that are connected, also where there are fewer than `max_connections` alone may have."""
    monkeypatch.setattr(resource, "getrlimit", lambda what: (descriptors, descriptors))
    assert _max_waiting(4096) == waiting


class Crowd(ExitStack):
    """Connections of which room is made."""

    def __init__(self) -> None:
        super().__init__()
        self.connections = Connections()

    def add(self, *, quiet: float, used: bool = False, waiting: bool = True, network: str = "a") -> HttpConnection:
        """Add a stranger that has been quiet for so many seconds."""
        stranger = connection(None)
        stranger.quiet_since, stranger.used, stranger.waits_for_client = -quiet, used, waiting
        stranger._network = network
        self.enter_context(self.connections.member(stranger))
        return stranger

    def add_known(
        self, account: str, *, quiet: float = 0.0, used: bool = False, waiting: bool = True
    ) -> HttpConnection:
        """Add a client of an account that has been quiet for so many seconds."""
        client = self.add(quiet=quiet, used=used, waiting=waiting)
        client.identify(account)
        return client

    def make_room(self, *, spare_unread: bool = True) -> bool:
        """Ask for room."""
        return self.connections.make_room(0.0, spare_unread=spare_unread)

    def end(self, number: int, *others: HttpConnection, of: list[HttpConnection]) -> None:
        """Make room until so many have ended; none of the others may end before."""
        while sum(one.scope.cancel_called for one in of) < number:
            assert self.make_room()
            assert not any(one.scope.cancel_called for one in others)


@given(
    crowd=st.lists(st.floats(0, 0.99), min_size=2, max_size=40),
    newcomer=st.floats(0, 0.99),
    used=st.booleans(),
    waiting=st.booleans(),
    network=st.sampled_from("ab"),
)
def test_a_crowd_pays_for_itself(crowd: list[float], newcomer: float, used: bool, waiting: bool, network: str) -> None:
    """A client whose first request has not come yet, or waits for the server, outlives strangers that are answered all
    the time; a browser between the page and its login outlives strangers that say nothing; and a client of another
    network outlives both. That holds until the crowd is as small as those it would harm."""

    async def run() -> None:
        with Crowd() as members:
            many = [members.add(quiet=quiet, used=used, waiting=waiting) for quiet in crowd]
            client = members.add(quiet=newcomer, used=used if network == "b" else not used, network=network)
            members.end(len(many) - 1, client, of=many)

    trio.run(run)


async def test_of_one_crowd_the_last_to_come_stays() -> None:
    """It has had no time to send its request; strangers that take no answer are there for longer."""
    with Crowd() as members:
        deaf = [members.add(quiet=0.5, waiting=False) for _ in range(3)]
        members.end(3, members.add(quiet=0.0), of=deaf)


async def test_the_time_in_which_a_request_waits_for_its_turn_is_not_the_clients(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The server is busy with others then. After it, the client's time goes on."""
    stranger = connection(None)
    stranger.quiet_since = trio.current_time()
    await trio.sleep(0.25)
    with stranger.queued():
        await trio.sleep(10)
        assert stranger.quiet_time(trio.current_time()) == pytest.approx(0.25)
    await trio.sleep(0.5)
    assert stranger.quiet_time(trio.current_time()) == pytest.approx(0.75)


async def test_bytes_that_the_server_has_not_read_yet_are_no_silence() -> None:
    """Of two clients that seem quiet for ever, the one ends that has sent nothing, the other only where it has to."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs, Crowd() as members:
        late, silent = members.add(quiet=100.0), members.add(quiet=10.0)
        late.stream = trio.SocketStream(ours)
        await theirs.send(b"GET")
        members.end(1, late, of=[silent])
        leave(members.connections, [silent])
        assert not members.make_room()
        assert members.make_room(spare_unread=False)
        assert late.scope.cancel_called


async def test_bytes_that_were_read_and_not_received_are_no_silence() -> None:
    """An idle client whose next request was just read does not end before the task of the connection has run."""
    ours, theirs = trio.socket.socketpair()
    stream = trio.SocketStream(ours)
    client = HttpConnection(stream, Inflow(stream, 2**16), trio.CancelScope())
    with ours, theirs, Crowd() as members:
        client.identify("alice")
        client.quiet_since = -100.0
        members.enter_context(members.connections.member(client))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive)
            await trio.testing.wait_all_tasks_blocked()
            assert not client.is_unread
            await theirs.send(b"GET")
            client.inflow._read()
            assert not ours.is_readable()
            assert client.waits_for_client
            assert not members.make_room()
            assert not client.scope.cancel_called
        with client.waiting():
            assert members.make_room()
        client.inflow.close()


async def test_a_known_client_stays_one_while_its_next_request_is_checked() -> None:
    """A request begins without an owner; strangers end before the connection of a client that was known."""
    connections = Connections()
    with ExitStack() as members:
        stranger, client = connection(None), connection("alice")
        client.owner = None
        for one in (client, stranger):
            members.enter_context(connections.member(one))
        with stranger.waiting(), client.waiting():
            assert connections.make_room(0.0)
            assert (stranger.scope.cancel_called, client.scope.cancel_called) == (True, False)


async def test_an_account_does_not_escape_its_share_by_public_requests() -> None:
    """Its connections count as its own, also if their last requests were not authenticated."""
    with Crowd() as members:
        many = [members.add_known("many", waiting=False) for _ in range(ACCOUNT_SHARE + 1)]
        for one in many:
            one.owner = None
        assert members.make_room()
        assert sum(one.scope.cancel_called for one in many) == 1
        leave(members.connections, many)
        assert not members.make_room()


@given(
    accounts=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 20), min_size=1),
    strangers=st.lists(st.floats(0, 0.99), max_size=3),
)
def test_idle_known_clients_end_before_strangers_that_have_just_come(
    accounts: dict[str, int], strangers: list[float]
) -> None:
    """Connections of the account end that has the most idle ones, those first that are idle for the longest, as long as
    the strangers are a small part of all; connections at work stay."""

    async def run() -> None:
        with Crowd() as members:
            idle = {
                account: [members.add_known(account, quiet=10.0 + age, used=True) for age in range(number)]
                for account, number in accounts.items()
            }
            others = [members.add_known("busy", quiet=10.0, waiting=False) for _ in range(12)]
            others += [members.add(quiet=quiet) for quiet in strangers]
            while left := [one for those in idle.values() for one in those]:
                most = max(map(len, idle.values()))
                assert members.make_room()
                assert not any(one.scope.cancel_called for one in others)
                (account,) = {one.account for one in left if one.scope.cancel_called}
                assert len(idle[account]) == most
                assert idle[account].pop().scope.cancel_called
                leave(members.connections, left)

    trio.run(run)


async def test_of_an_accounts_connections_those_between_two_requests_end_first() -> None:
    """Ended in the middle of a body, a client would lose its request."""
    with Crowd() as members:
        uploads = [members.add_known("alice", quiet=20.0, used=used) for used in (False, True)]
        idle = [members.add_known("alice", quiet=10.0, used=True) for _ in range(3)]
        for one in idle:
            one.in_request = False
        for number in range(1, 4):
            assert members.make_room()
            assert sum(one.scope.cancel_called for one in idle) == number
            leave(members.connections, idle)
        assert not any(one.scope.cancel_called for one in uploads)
        assert members.make_room()
        assert uploads[0].scope.cancel_called


@pytest.mark.parametrize("flood", [False, True])
async def test_a_flood_of_strangers_pays_for_itself(flood: bool) -> None:
    """Strangers of one network, with more than a quarter of all connections, end before idle known clients do."""
    with Crowd() as members:
        idle = [members.add_known(f"account-{number}", quiet=10.0, used=True) for number in range(30)]
        strangers = [members.add(quiet=0.5) for _ in range(10 + flood)]
        assert members.make_room()
        assert sum(one.scope.cancel_called for one in strangers) == flood
        assert sum(one.scope.cancel_called for one in idle) == (not flood)


@pytest.mark.parametrize("strangers", [0, 1, 300])
async def test_as_long_as_ended_connections_have_not_gone_no_idle_client_ends_nor_a_stranger_for_it(
    strangers: int,
) -> None:
    """Of thousands, many end together, as finding them takes a while. They make room for as many clients."""
    with Crowd() as members:
        idle = [
            members.add_known(f"account-{number % 80}", quiet=50.0, used=True) for number in range(4095 - strangers)
        ]
        young = [members.add(quiet=0.3) for _ in range(strangers)]
        for _ in range(3):
            assert members.make_room()
            assert sum(one.scope.cancel_called for one in idle) == ENDED_TOGETHER
            assert not any(one.scope.cancel_called for one in young)


@pytest.mark.parametrize(("crowd", "ended"), [(1, 1), (3, 1), (8, 4), (100, ENDED_TOGETHER)])
async def test_of_thousands_of_connections_at_work_a_crowd_loses_half_at_most(crowd: int, ended: int) -> None:
    """The server looks through all connections once for several clients that come, and spares the last of the crowd."""
    with Crowd() as members:
        for number in range(4000):
            members.add_known(f"account-{number % 80}", waiting=False)
        strangers = [members.add(quiet=0.3 + age / 1000) for age in range(crowd)]
        assert members.make_room()
        assert [one.scope.cancel_called for one in strangers] == [False] * (crowd - ended) + [True] * ended


async def test_a_turn_is_waited_for_at_the_servers_cost(autojump_clock: trio.testing.MockClock) -> None:
    """The connection is not quiet, is not waiting for its client, and keeps its seconds, however long that takes."""
    started = trio.current_time()
    stranger = connection(None)
    stranger._network, stranger.quiet_since = "a", started
    stranger.scope.deadline = started + 10
    async with trio.open_nursery() as nursery:
        with stranger.scope, stranger.waiting():
            async with _turns()._next:
                nursery.start_soon(stranger.give_way)
                await trio.sleep(60)
                assert stranger.quiet_time(trio.current_time()) == 0
                assert not stranger.waits_for_client
            await trio.testing.wait_all_tasks_blocked()
            assert stranger.waits_for_client
            assert stranger.quiet_time(trio.current_time()) == 0
            await trio.sleep_forever()
        assert trio.current_time() == started + 70


async def test_a_client_that_has_just_come_does_not_pay_for_an_account_that_leaves_its_requests_unfinished() -> None:
    """Connections of that account end on which its first request has not come whole; those stay on which a request was
    answered."""
    connections = Connections()
    with ExitStack() as members:
        unfinished, idle = [connection("mallory") for _ in range(3)], connection("mallory")
        idle.used = True
        newcomer = connection(None)
        newcomer.quiet_since = 0.0
        for one in (*unfinished, idle, newcomer):
            members.enter_context(connections.member(one))
            members.enter_context(one.waiting())
        for number in (1, 2):
            assert connections.make_room(0.0)
            assert sum(one.scope.cancel_called for one in unfinished) == number
            leave(connections, unfinished)
        assert not idle.scope.cancel_called
        assert not newcomer.scope.cancel_called


async def test_beyond_the_maximum_those_that_wait_for_a_request_end(caplog: pytest.LogCaptureFixture) -> None:
    """With descriptors for many more: strangers that say nothing end, the next client is served, one line is logged."""
    config = ServerConfig(bind="127.0.0.1:0", store="memory://")
    async with (
        open_server(config, settings=ServiceSettings(max_connections=8)) as server,
        AsyncExitStack() as strangers,
    ):
        host, port = urlsplit(server.url).hostname or "", urlsplit(server.url).port or 0
        ended = trio.Semaphore(0)

        async def say_nothing(stream: trio.SocketStream) -> None:
            assert not await stream.receive_some()
            ended.release()

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                stream = await strangers.enter_async_context(await trio.open_tcp_stream(host, port))
                nursery.start_soon(say_nothing, stream)
            async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
                assert (await client.get("/healthz")).status_code == 200
                with trio.fail_after(TIMEOUT):
                    for _ in range(20 + 1 - 8):
                        await ended.acquire()
                assert (await client.get("/healthz")).status_code == 200
            nursery.cancel_scope.cancel()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "no more connections (max_connections): those that wait for a request are closed"
    ]


async def test_a_stranger_is_let_in_where_all_others_are_known(autojump_clock: trio.testing.MockClock) -> None:
    """Of an account's connections the ones end that wait for another request; a body on its way is read to its end."""
    autojump_clock.autojump_threshold = 0.02  # what is sent to a socket is there within that
    config = ServerConfig(bind="127.0.0.1:0", store="memory://")
    async with open_server(config, settings=ServiceSettings(max_connections=8)) as server, AsyncExitStack() as clients:
        await server.service.hub.accounts.register("alice", "no password")
        key = (await server.service.hub.accounts.create_key("alice")).secret
        head = f"Host: x\r\nAuthorization: Bearer {key}\r\n".encode()

        async def ask(request: bytes) -> trio.SocketStream:
            stream = await clients.enter_async_context(await trio.open_tcp_stream("127.0.0.1", server.port))
            await stream.send_all(request)
            return stream

        idle = [await ask(b"GET /api/v2/me HTTP/1.1\r\n" + head + b"\r\n") for _ in range(7)]
        for stream in idle:
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        upload = await ask(b"POST /api/v2/devices HTTP/1.1\r\n" + head + b"Content-Length: 11\r\n\r\n{")
        await trio.sleep(2 * QUIET_TIME)
        strangers = [await ask(b"GET /healthz HTTP/1.1\r\n") for _ in range(2)]
        await trio.sleep(QUIET_TIME / 2)
        for stream in strangers:
            await stream.send_all(b"Host: x\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        await upload.send_all(b'"id":"d1"}')
        assert (await upload.receive_some()).startswith(b"HTTP/1.1 201")


async def test_a_probe_does_not_wait_for_a_herd(
    open_raw: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does a request. Many more devices than `max_connections` wait for the store: none of them ends, a client with
    a new connection is answered, and all are let in when the store answers.
    """
    config = ServerConfig(bind="127.0.0.1:0", store="memory://")
    async with (
        open_server(config, settings=ServiceSettings(max_connections=100)) as server,
        AsyncExitStack() as herd,
        httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as known,
    ):
        hub, answers = server.service.hub, trio.Event()
        await hub.accounts.register("alice", "no password")
        key = (await hub.accounts.create_key("alice")).secret
        known.headers["Authorization"] = f"Bearer {key}"
        assert (await known.get("/api/v2/devices")).status_code == 200
        tokens = [(await hub.create_device("alice", f"d{number}")).token for number in range(250)]
        authenticate, all_wait, asked = hub.registry.authenticate, trio.Event(), 0

        async def slowly(token: str) -> Any:
            nonlocal asked
            asked += 1
            if asked == STORE_CALLERS:
                all_wait.set()
            await answers.wait()
            return await authenticate(token)

        monkeypatch.setattr(hub.registry, "authenticate", slowly)
        devices = []
        for token in tokens:
            devices.append(await herd.enter_async_context(open_raw(server, patience=TIMEOUT)))
            await devices[-1].send(devices[-1].handshake_bytes("/api/v2/rpc", token))
        with trio.fail_after(TIMEOUT):
            await all_wait.wait()
            for _ in range(3):
                async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as probe:
                    assert (await probe.get("/livez")).status_code == 200
            assert (await known.get("/api/v2/devices")).status_code == 200
        assert asked == STORE_CALLERS
        answers.set()
        for device in devices:
            assert (await device.response()).status == 101
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
