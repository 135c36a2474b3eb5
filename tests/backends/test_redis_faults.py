"""What the Redis backend does when its server is killed, stopped, slow or full, and when it is back."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import hiredis
import pytest
from clocks import blocked_time
from rows import every_row

from mdash_backends import _redis_bus
from mdash_backends._bus_queue import BUS_QUEUE
from mdash_backends._redis_connection import MAX_IN_FLIGHT
from mdash_backends._redis_errors import ConnectionLost, NotConnected, ReadOnlyServer, ReplyError, reply_error
from mdash_backends._redis_url import MAX_URL_TIMEOUT
from mdashcore._errors import StorageError, VersionConflict
from mdashcore.storage import Backend, open_backend

PATIENCE = 20  # seconds for what has to come
BACK = 5.0  # seconds after the server's return, in which everything has to work
TIMEOUT = 0.5  # seconds that a call may take, in tests with a server that does not answer
BURST = 3000  # callers at the same time, more than ten for each place on a connection
IN_TIME = 4 * TIMEOUT  # seconds that it does take at most, without what the machine has to do besides

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def server(start_redis: Any) -> Any:
    """A server of the test's own, which has every write on disk before it answers."""
    server = start_redis(appendonly="yes", appendfsync="always")
    yield server
    server.kill()


async def works_again(call: Callable[[], Awaitable[object]]) -> None:
    """Call until it works, which has to be soon."""
    with anyio.fail_after(BACK):
        while True:
            try:
                await call()
            except StorageError:
                await anyio.lowlevel.checkpoint()
            else:
                return


async def fails_in_time(call: Awaitable[object], limit: float) -> None:
    """Await what has to fail as an unreachable store does, and soon."""
    start = blocked_time()
    with pytest.raises(StorageError) as caught:
        await call
    assert not isinstance(caught.value, VersionConflict)
    assert blocked_time() - start < limit


def peak_memory() -> int:
    """The most bytes of memory that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def forget_peak_memory() -> int:
    """Have the peak begin anew, as proc(5) describes. Returns the bytes of memory that the process has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


class Writer:
    """Counts in one document by compare-and-set, and writes each count into a log, whatever comes between.

    `tried` is the last count that may be stored; `acknowledged`, `version` and `entries` are what has to be.
    """

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend = backend
        self.name = name
        self.tried = 0
        self.failures = 0
        self.acknowledged = 0
        self.version = 0
        self.entries: dict[int, bytes] = {}
        self.slowest = 0.0

    async def write(self) -> None:
        """Count one on, if the store can be reached."""
        start = blocked_time()
        try:
            found = await self.backend.documents.get("counts", self.name)
            body = b"%d" % (self.tried + 1)
            version = await self.backend.documents.put(
                "counts", self.name, body, expected=found.version if found else 0
            )
            self.tried += 1
            self.acknowledged, self.version = self.tried, version
            offset = await self.backend.logs.append(self.name, 1.0, [body])
            self.entries[offset] = body
        except VersionConflict:
            raise AssertionError("nobody else writes here") from None
        except StorageError:
            self.failures += 1
            self.tried += 1  # it may have happened
        self.slowest = max(self.slowest, blocked_time() - start)

    async def check(self) -> None:
        """See that nothing which was acknowledged is lost, and nothing there is half; also while it goes on writing."""
        acknowledged, version, expected = self.acknowledged, self.version, dict(self.entries)
        found = await self.backend.documents.get("counts", self.name)
        assert found is not None
        assert acknowledged <= int(found.body) <= self.tried + 1
        assert found.version >= version
        entries = await self.backend.logs.read(self.name, 0, 10**6)
        assert [entry.offset for entry in entries] == list(range(len(entries)))
        counts = [int(entry.body) for entry in entries]
        assert counts == sorted(set(counts)), "an entry was written twice"
        assert {offset: entries[offset].body for offset in expected} == expected


def test_killed_in_the_middle_of_updates(server: Any, run_long: Run) -> None:
    """Nothing that was acknowledged is lost when the server is killed under load, time after time.

    Calls in between fail immediately; all work again by themselves when the server is back.
    """

    async def test() -> None:
        async with open_backend(f"{server.url}?durable=1") as backend, anyio.create_task_group() as tasks:
            writers = [Writer(backend, f"w{n}") for n in range(16)]
            written = anyio.Event()

            async def keep_writing(writer: Writer) -> None:
                while True:
                    await writer.write()
                    written.set()
                    await anyio.lowlevel.checkpoint()

            for writer in writers:
                tasks.start_soon(keep_writing, writer)
            for _ in range(2):
                before = sum(writer.acknowledged for writer in writers)
                while sum(writer.acknowledged for writer in writers) < before + 500:
                    written = anyio.Event()
                    await written.wait()
                server.kill()
                await fails_in_time(backend.documents.put("things", "k", b"1"), IN_TIME)
                await anyio.to_thread.run_sync(server.start)
                await works_again(lambda: backend.documents.put("things", "k", b"1"))
                for writer in writers:
                    await writer.check()
            tasks.cancel_scope.cancel()
        assert sum(writer.failures for writer in writers) >= 16
        assert max(writer.slowest for writer in writers) < 2 + IN_TIME

    run_long(test)


def test_subscriptions_are_healed(server: Any, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """After a restart every subscription goes on: an error where the gap is, then everything that comes after.

    A message published after the error arrives. Messages from before the kill come before the error.
    """

    async def test() -> None:
        async with open_backend(server.url) as backend:
            async with (
                backend.bus.subscribe("a") as one,
                backend.bus.subscribe("a") as two,
                backend.bus.subscribe("b") as three,
            ):
                for round in range(4):
                    await backend.bus.publish("a", b"before %d" % round)
                    await backend.bus.publish("b", b"before %d" % round)
                    assert await anext(two) == b"before %d" % round
                    assert await anext(three) == b"before %d" % round
                    server.kill()
                    await anyio.to_thread.run_sync(server.start)
                    with anyio.fail_after(BACK):
                        assert await anext(one) == b"before %d" % round
                        for messages in (one, two, three):
                            with pytest.raises(StorageError, match="connection was lost"):
                                await anext(messages)
                    await works_again(lambda n=round: backend.bus.publish("a", b"after %d" % n))
                    await backend.bus.publish("b", b"after %d" % round)
                    with anyio.fail_after(PATIENCE):
                        for messages in (one, two, three):
                            assert await anext(messages) == b"after %d" % round

    with caplog.at_level(logging.WARNING, "mdash_backends"):
        run(test)
    assert "subscriptions are interrupted" in caplog.text


def test_thousands_of_topics_are_healed(server: Any, run: Run) -> None:
    """Over one connection, in slices, after each restart; those that are left meanwhile, and at the end, are gone."""
    number = 1200  # in three slices

    def channels() -> set[bytes]:
        found: list[bytes] = server.command("PUBSUB", "CHANNELS", "mdash:bus:0:many*")
        return set(found)

    async def test() -> None:
        async with open_backend(f"{server.url}?timeout={PATIENCE}") as backend:
            live, healed = anyio.Semaphore(0), anyio.Semaphore(0)
            leave = [anyio.CancelScope() for _ in range(number)]

            async def follow(n: int) -> None:
                with leave[n]:
                    async with backend.bus.subscribe(f"many{n}") as messages:
                        live.release()
                        while True:
                            with pytest.raises(StorageError, match="connection was lost"):
                                await anext(messages)
                            await works_again(partial(backend.bus.publish, f"many{n}", b"%d" % n))
                            assert await anext(messages) == b"%d" % n
                            healed.release()

            async with anyio.create_task_group() as tasks:
                for n in range(number):
                    tasks.start_soon(follow, n)
                for _ in range(number):
                    await live.acquire()
                assert len(await anyio.to_thread.run_sync(channels)) == number
                left = number
                for _ in range(2):
                    server.kill()
                    for n in range(left // 2, left):  # they leave while there is no connection
                        leave[n].cancel()
                    left //= 2
                    await anyio.to_thread.run_sync(server.start)
                    with anyio.fail_after(PATIENCE):
                        for _ in range(left):
                            await healed.acquire()
                    assert len(await anyio.to_thread.run_sync(channels)) == left
                    clients = await anyio.to_thread.run_sync(server.command, "CLIENT", "LIST", "TYPE", "pubsub")
                    assert len(clients.splitlines()) == 1
                tasks.cancel_scope.cancel()
            async with backend.bus.subscribe("last"):  # when this is known, so is what was said before
                assert await anyio.to_thread.run_sync(channels) == set()

    run(test)


def test_subscribing_while_the_server_is_away(server: Any, run: Run) -> None:
    """It fails in time as long as the server is away, and succeeds soon after its return."""

    async def hear(backend: Backend) -> None:
        async with backend.bus.subscribe("t") as messages:
            await backend.bus.publish("t", b"hello")
            with anyio.fail_after(PATIENCE):
                assert await anext(messages) == b"hello"

    async def test() -> None:
        async with open_backend(f"{server.url}?timeout={TIMEOUT}") as backend:
            await hear(backend)
            server.kill()
            for _ in range(3):
                await fails_in_time(hear(backend), IN_TIME)
            await anyio.to_thread.run_sync(server.start)
            await works_again(lambda: hear(backend))

    run(test)


def test_subscribers_come_while_the_last_one_leaves(redis_server: Any, run: Run, monkeypatch: Any) -> None:
    """Whenever it is, also while the bus just stops listening or its connection was just lost: each is served."""
    monkeypatch.setattr(_redis_bus, "RECONNECT_DELAY", 0.0)

    async def test() -> None:
        async with open_backend(f"{redis_server.url}?prefix=test") as backend:
            for turns in [*range(40)] * 2:
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                with anyio.fail_after(PATIENCE):
                    async with backend.bus.subscribe("t") as messages:
                        await backend.bus.publish("t", b"hello")
                        assert await anext(messages) == b"hello"
                if turns % 2:
                    backend.bus._pipeline.close(ConnectionLost("a test"))  # type: ignore[attr-defined]

    run(test)


def test_a_subscriber_waits_when_the_backend_is_closed(server: Any, run: Run) -> None:
    """It fails as if the server were away."""

    async def test() -> None:
        async with anyio.create_task_group() as tasks:
            async with open_backend(f"{server.url}?timeout={PATIENCE}") as backend:

                async def subscribe() -> None:
                    with pytest.raises(StorageError, match="the backend is closed"):
                        async with backend.bus.subscribe("t"):
                            raise AssertionError("the server does not answer")

                server.stop()
                tasks.start_soon(subscribe)
                while not backend.bus._waiting:  # type: ignore[attr-defined]
                    await anyio.lowlevel.checkpoint()
            server.go_on()

    run(test)


def test_a_server_that_is_stopped(server: Any, run_long: Run) -> None:
    """A server that keeps its connections and answers nothing: every call fails in time, however many there are."""

    async def test() -> None:
        async with open_backend(f"{server.url}?timeout={TIMEOUT}") as backend:
            await backend.documents.put("things", "k", b"1")
            server.stop()
            for _ in range(2):
                async with anyio.create_task_group() as tasks:
                    for n in range(1000):
                        tasks.start_soon(fails_in_time, backend.documents.get("things", f"{n}"), IN_TIME)
            server.go_on()
            await works_again(lambda: backend.documents.get("things", "k"))

    run_long(test)


def test_a_burst_of_callers_is_served_in_turn(redis_server: Any, run_long: Run) -> None:
    """However long all of them take together: the limit is for a server that is silent, not for a queue that moves."""

    async def test() -> None:
        done = 0

        async def call() -> None:
            nonlocal done
            while anyio.current_time() < end:
                await backend.documents.get("things", "k")
            done += 1

        async with open_backend(f"{redis_server.url}?prefix=test&timeout={TIMEOUT}") as backend:
            end = anyio.current_time() + 2 * TIMEOUT
            async with anyio.create_task_group() as tasks:
                for _ in range(BURST):
                    tasks.start_soon(call)
        assert done == BURST

    run_long(test)


def test_a_busy_event_loop_is_no_silence(redis_server: Any, run: Run) -> None:
    """Where other work keeps the loop for longer than the limit, the answers that came meanwhile are read."""

    async def test() -> None:
        async with open_backend(f"{redis_server.url}?prefix=test&timeout=0.1") as backend:

            async def keep_the_loop() -> None:
                for _ in range(3):
                    time.sleep(0.3)  # noqa: ASYNC251 - that is what is tested
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                for n in range(10):
                    tasks.start_soon(backend.documents.put, "things", f"{n}", b"1")
                tasks.start_soon(keep_the_loop)

    run(test)


def test_callers_that_leave_hide_no_silence(server: Any, run: Run) -> None:
    """A connection on which nothing is answered is given up, also where each caller goes away before its limit."""

    async def test() -> None:
        relay = Relay(server)
        async with relay.open() as url, open_backend(f"{url}&timeout={TIMEOUT}") as backend:
            await works_again(partial(backend.documents.put, "things", "k", b"1"))
            relay.cut()
            with anyio.fail_after(BACK):
                found = None
                while found is None:
                    with anyio.move_on_after(TIMEOUT / 4), suppress(StorageError):
                        found = await backend.documents.get("things", "k")

    run(test)


def test_subscriptions_to_a_server_that_is_stopped(server: Any, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A subscription that has gone silent is found out, although nothing is ever sent on it, and healed."""

    async def test() -> None:
        async with (
            open_backend(f"{server.url}?timeout={TIMEOUT}") as backend,
            backend.bus.subscribe("t") as messages,
        ):
            noticed = anyio.Event()
            handler = logging.Handler()
            handler.emit = lambda record: noticed.set()  # type: ignore[method-assign]
            logger = logging.getLogger(_redis_bus.__name__)
            logger.addHandler(handler)
            try:
                server.stop()
                with anyio.fail_after(_redis_bus.TEST_INTERVAL + IN_TIME):
                    await noticed.wait()
            finally:
                logger.removeHandler(handler)
                server.go_on()
            with anyio.fail_after(BACK):
                with pytest.raises(StorageError, match="connection was lost"):
                    await anext(messages)
            await works_again(lambda: backend.bus.publish("t", b"hello"))
            with anyio.fail_after(PATIENCE):
                assert await anext(messages) == b"hello"

    with caplog.at_level(logging.WARNING, "mdash_backends"):
        run(test)


class Relay:
    """A way to the server on which connections can go dead without a word, as behind a router that restarts."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._dead = anyio.Event()
        self.carried = 0
        """Bytes that came from clients."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Its URL, for as long as it is there; options can follow."""
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, self._serve)
                yield f"redis://127.0.0.1:{port}?prefix=test"
                tasks.cancel_scope.cancel()

    def cut(self) -> None:
        """Carry nothing more on the connections that there are, and close none; new ones work."""
        self._dead.set()
        self._dead = anyio.Event()

    async def _serve(self, near: anyio.abc.ByteStream) -> None:
        dead = self._dead

        async def carry(source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream) -> None:
            with suppress(anyio.BrokenResourceError):
                async for data in source:
                    self.carried += len(data) if source is near else 0
                    if not dead.is_set():
                        await sink.send(data)
            tasks.cancel_scope.cancel()

        async with near, await anyio.connect_tcp(self._server.host, self._server.port) as far:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(carry, near, far)
                tasks.start_soon(carry, far, near)


def test_connections_that_have_gone_dead(server: Any, run: Run) -> None:
    """A connection that carries nothing any more is given up after one time-out, for commands and for the bus."""

    async def test() -> None:
        relay = Relay(server)
        async with (
            relay.open() as url,
            open_backend(f"{url}&timeout={TIMEOUT}") as backend,
            backend.bus.subscribe("t") as messages,
        ):
            await backend.documents.put("things", "k", b"1")
            relay.cut()
            await fails_in_time(backend.documents.put("things", "k", b"1"), IN_TIME)
            await backend.documents.put("things", "k", b"1")
            with anyio.fail_after(BACK), pytest.raises(StorageError, match="connection was lost"):
                await anext(messages)
            await backend.bus.publish("t", b"hello")
            with anyio.fail_after(PATIENCE):
                assert await anext(messages) == b"hello"

    run(test)


def test_what_waits_for_an_answer_is_bounded(server: Any, run_long: Run) -> None:
    """However many call while nothing is answered, only so much is sent, and kept in memory for it."""
    body = b'"%b"' % (b"x" * 1000)

    async def test() -> None:
        relay = Relay(server)
        async with relay.open() as url, open_backend(f"{url}&timeout=1") as backend:
            await backend.documents.put("things", "k", body)
            server.stop()
            async with anyio.create_task_group() as tasks:
                for n in range(4 * MAX_IN_FLIGHT):
                    tasks.start_soon(fails_in_time, backend.documents.put("things", f"{n}", body), 1 + IN_TIME)
            server.go_on()
            assert MAX_IN_FLIGHT * len(body) < relay.carried < 2 * MAX_IN_FLIGHT * len(body)

    run_long(test)


def test_callers_that_give_up_leave_their_places_to_the_answers(server: Any, run: Run) -> None:
    """However many come and go while nothing is answered, only so many commands wait for an answer. A caller that waits
    behind them when the connection is lost is told that nothing was sent.
    """

    async def test() -> None:
        async with open_backend(f"{server.url}?timeout={MAX_URL_TIMEOUT}") as backend:  # so that it counts as working
            await backend.documents.put("things", "k", b"1")
            node = backend.documents._client.home_node  # type: ignore[attr-defined]
            failures: list[BaseException | None] = []

            async def wait_in_line() -> None:
                with pytest.raises(StorageError) as caught:
                    await backend.documents.put("things", "last", b"1")
                failures.append(caught.value.__cause__)

            server.stop()
            for _ in range(3):
                async with anyio.create_task_group() as tasks:
                    for n in range(MAX_IN_FLIGHT):
                        tasks.start_soon(backend.documents.put, "things", f"{n}", b"1")
                    await anyio.wait_all_tasks_blocked()
                    tasks.cancel_scope.cancel()
                assert node._pipeline.pending == MAX_IN_FLIGHT
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait_in_line)
                await anyio.wait_all_tasks_blocked()
                server.kill()
            assert [type(failure) for failure in failures] == [NotConnected]
            await anyio.to_thread.run_sync(server.start)
            await works_again(partial(backend.documents.get, "things", "k"))

    run(test)


HELLO = b"%3\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"


@every_row(
    ("command", "strange"),
    [
        ("GET", b"-MOVED 1 nowhere\r\n"),
        ("GET", b"-MOVED 1 127.0.0.1:99999\r\n"),
        ("GET", b"-ASK\r\n"),
        ("HELLO", b"+OK\r\n"),
        ("HELLO", b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"),
        ("HELLO", b":1\r\n:2\r\n"),
        ("INFO", b":1\r\n"),
        ("INFO", b"*1\r\n:1\r\n"),
    ],
)
def test_a_strange_answer_costs_the_call(run: Run, command: str, strange: bytes) -> None:
    """After a reconnect the server is another program, or behind a proxy: the backend is used on, and works again."""
    is_strange, was_strange = False, anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        reader = hiredis.Reader(notEnoughData=None)
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    reader.feed(await stream.receive())
                    while (asked := reader.gets()) is not None:
                        name = asked[0].decode()
                        if is_strange and name == command:
                            await stream.send(strange)
                            was_strange.set()
                        else:
                            await stream.send(
                                {"HELLO": HELLO, "INFO": b"$0\r\n\r\n", "CONFIG": b"%0\r\n"}.get(name, b"_\r\n")
                            )

    async def test() -> None:
        nonlocal is_strange
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, serve)
                async with open_backend(f"redis://127.0.0.1:{port}?timeout={PATIENCE}") as backend:
                    node = backend.documents._client.home_node  # type: ignore[attr-defined]
                    is_strange = True
                    node.drop()
                    if command == "INFO":  # asked beside the calls, whose answers come after its own
                        assert await backend.documents.get("things", "k") is None
                        await was_strange.wait()
                        assert await backend.documents.get("things", "k") is None
                    else:
                        with pytest.raises(StorageError):
                            await backend.documents.get("things", "k")
                    assert was_strange.is_set()
                    is_strange = False
                    node.drop()
                    assert await backend.documents.get("things", "k") is None
                tasks.cancel_scope.cancel()

    run(test)


@every_row(
    ("text", "kind"),
    [
        ("READONLY You can't write against a read only replica.", ReadOnlyServer),
        (
            "ERR Error running script (call to f_8a1b): @user_script:5: @user_script: 5: "
            "-READONLY You can't write against a read only replica. ",
            ReadOnlyServer,
        ),
        ("ERR wrong number of arguments", ReplyError),
    ],
)
def test_a_replica_is_recognized(text: str, kind: type[ReplyError]) -> None:
    """By the answer to a write, also of a script: until Redis 6.2 the code stands inside the text."""
    assert type(reply_error(text)) is kind


def test_a_crowd_in_one_collection_does_not_hold_up_another(server: Any, run: Run) -> None:
    """A sign of life is written while thousands of calls wait to read other documents: it has its turn among lines."""
    crowd, done = 20 * MAX_IN_FLIGHT, 0

    async def test() -> None:
        begun, all_wait = 0, anyio.Event()

        async def read() -> None:
            nonlocal begun, done
            begun += 1
            if begun == crowd:
                all_wait.set()
            await backend.documents.get("presence", "k")
            done += 1

        async with open_backend(server.url) as backend:
            await backend.documents.put("nodes", "this", b"1")  # the server knows the script from now on
            async with anyio.create_task_group() as tasks:
                for _ in range(crowd):
                    tasks.start_soon(read)
                await all_wait.wait()
                await backend.documents.put("nodes", "this", b"2")
                assert done < crowd / 4
            assert done == crowd

    run(test)


def test_callers_that_give_up(server: Any, run_long: Run) -> None:
    """Callers that are cancelled while the server does not answer, or is away, take nothing with them."""

    async def test() -> None:
        async def give_up(n: int) -> None:
            with anyio.move_on_after(0.01 * (n % 5)):
                try:
                    await backend.documents.get("things", "k")
                except StorageError:
                    pass

        async with open_backend(f"{server.url}?timeout={TIMEOUT}") as backend:
            for away, back in ((server.stop, server.go_on), (server.kill, server.start)):
                away()
                for _ in range(20):
                    async with anyio.create_task_group() as tasks:
                        for n in range(50):
                            tasks.start_soon(give_up, n)
                await anyio.to_thread.run_sync(back)
                await works_again(lambda: backend.documents.get("things", "k"))

    run_long(test)


def test_connections_are_cut(server: Any, run: Run) -> None:
    """Connections that the server closes are made again, for commands and for the bus."""

    async def test() -> None:
        async with open_backend(server.url) as backend, backend.bus.subscribe("t") as messages:
            for kind in ("normal", "pubsub") * 3:
                await backend.bus.publish("t", b"1")
                assert await anext(messages) == b"1"
                server.command("CLIENT", "KILL", "TYPE", kind)
                if kind == "pubsub":
                    with anyio.fail_after(BACK), pytest.raises(StorageError, match="connection was lost"):
                        await anext(messages)
                await works_again(lambda: backend.bus.publish("t", b"2"))
                assert await anext(messages) == b"2"

    run(test)


def test_a_server_without_room(start_redis: Any, run: Run) -> None:
    """Where there is no memory left, a write is an error that says so and changes nothing; reads go on."""
    server = start_redis()

    async def test() -> None:
        async with open_backend(server.url) as backend:
            version = await backend.documents.put("things", "k", b"1")
            await backend.logs.append("l", 1.0, [b"0"])
            used = int(server.command("INFO", "memory").split(b"used_memory:")[1].split(b"\r")[0])
            server.command("CONFIG", "SET", "maxmemory", str(used // 2))
            for write in (
                backend.documents.put("things", "k", b"2", expected=version),
                backend.documents.put("things", "new", b"2"),
                backend.logs.append("l", 1.0, [b"1", b"2"]),
            ):
                with pytest.raises(StorageError, match="maxmemory"):
                    await write
            found = await backend.documents.get("things", "k")
            assert found is not None
            assert (found.version, found.body) == (version, b"1")
            assert [document.key async for document in backend.documents.scan("things")] == ["k"]
            assert await backend.logs.end("l") == 1
            server.command("CONFIG", "SET", "maxmemory", "0")
            assert await backend.logs.append("l", 1.0, [b"1"]) == 1

    run(test)
    server.kill()


def test_a_flood_of_messages_takes_no_memory(server: Any, run_long: Run) -> None:
    """While a subscriber does not read, its queue is all that is kept: nothing piles up in the connection."""
    server.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")  # it drops no slow connection
    body = b"x" * 4000
    flood = 8 * BUS_QUEUE
    burst = b"*3\r\n$7\r\nPUBLISH\r\n$12\r\ntest:bus:0:t\r\n$%d\r\n%b\r\n" % (len(body), body) * 16

    def publish() -> None:
        with socket.create_connection((server.host, server.port)) as link, link.makefile("rb") as answers:
            for _ in range(flood // 16):
                link.sendall(burst)
                for _ in range(16):
                    assert answers.readline() == b":1\r\n"

    async def test() -> None:
        async with (
            open_backend(f"{server.url}?prefix=test") as backend,
            backend.bus.subscribe("t") as messages,
            backend.bus.subscribe("last") as last,
        ):
            before = forget_peak_memory()
            await anyio.to_thread.run_sync(publish)
            await backend.bus.publish("last", b"end")
            assert await anext(last) == b"end"
            kept = peak_memory() - before
            for _ in range(BUS_QUEUE):
                assert await anext(messages) == body
            with pytest.raises(StorageError, match="behind"):
                await anext(messages)
        assert kept < flood * len(body) / 3, "of the queue, and as much again for what is being read"

    run_long(test)
