"""Redis as people run it: a cluster whose masters die and whose slots move, Sentinels, and settings that lose data."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from rows import every_row
from waiting import wait_until

from mdash_backends._redis_client import RedisClient, background_tasks, slot_of
from mdash_backends._redis_url import parse_redis_url
from mdashcore._errors import StorageError
from mdashcore.storage import Backend, open_backend

FAILOVER = 40.0  # seconds in which a replica takes over, on a busy machine: one to three on a quiet one
COLLECTIONS = [f"things-{n}" for n in range(12)]  # of these each node of a cluster has some

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def cluster(start_redis_with_replicas: Any) -> Any:
    """Three masters and their replicas."""
    nodes = start_redis_with_replicas()
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture
def sentinels(start_sentinels: Any) -> Any:
    """Three Sentinels of a master and its replica."""
    service = start_sentinels()
    yield service
    service.close()
    for server in service.servers:
        server.kill()


async def works(call: Callable[[], Awaitable[object]]) -> bool:
    """Whether a call succeeds."""
    try:
        await call()
    except StorageError:
        return False
    return True


async def works_again(call: Callable[[], Awaitable[object]]) -> None:
    """Call until it works."""
    with anyio.fail_after(FAILOVER):
        while not await works(call):
            await anyio.lowlevel.checkpoint()


async def next_message(messages: AsyncIterator[bytes]) -> bytes:
    """The next message, past the gaps, each of which the iterator names by an error."""
    while True:
        try:
            return await anext(messages)
        except StorageError:
            pass


def replication(server: Any) -> dict[bytes, bytes]:
    """What a server says of its replication."""
    lines = server.command("INFO", "replication").splitlines()
    return dict(line.split(b":", 1) for line in lines if b":" in line)


async def replicated(servers: list[Any]) -> None:
    """Until the replicas have what was written, by what each says of itself.

    WAIT does not tell: it counts what its own connection wrote, and a new connection has written nothing.
    """

    def wait() -> None:
        found = [replication(server) for server in servers]
        written = {
            b"%d" % server.port: int(said[b"master_repl_offset"])
            for server, said in zip(servers, found, strict=True)
            if said[b"role"] == b"master"
        }

        def is_there(replica: Any) -> bool:
            said = replication(replica)
            return int(said.get(b"slave_repl_offset", -1)) >= written[said[b"master_port"]]

        replicas = [server for server, said in zip(servers, found, strict=True) if said[b"role"] == b"slave"]
        assert len(replicas) == len(written), "each master has one replica"
        for replica in replicas:
            wait_until(lambda replica=replica: is_there(replica))

    await to_thread.run_sync(wait)


async def check_failover(backend: Backend, servers: list[Any], kill: Callable[[], None]) -> None:
    """Kill a master under way. What had reached its replica is there, and everything works again by itself."""
    async with backend.bus.subscribe("t") as messages:
        for collection in COLLECTIONS:
            await backend.documents.put(collection, "k", b"1", expected=0)
            assert await backend.logs.append(collection, 1.0, [b"0"]) == 0
        await replicated(servers)
        await to_thread.run_sync(kill)
        for collection in COLLECTIONS:
            await works_again(lambda name=collection: backend.documents.put(name, "new", b"2"))
            found = await backend.documents.get(collection, "k")
            assert found is not None
            assert found.body == b"1"
            assert await backend.logs.end(collection) == 1
            assert await backend.logs.append(collection, 2.0, [b"1"]) == 1
        with anyio.fail_after(FAILOVER):
            message = b""
            while message != b"after":  # published until the subscription is back, as a log would be read
                await works_again(lambda: backend.bus.publish("t", b"after"))
                with anyio.move_on_after(0.1):
                    message = await next_message(messages)


@pytest.mark.parametrize("named", ["one", pytest.param("all", marks=pytest.mark.proof)])
def test_a_master_of_a_cluster_is_killed(cluster: Any, run_long: Run, caplog: Any, named: str) -> None:
    """Its replica takes over: the backend finds it, also if the killed node is the only one that the URL names."""
    places = ",".join(f"{node.host}:{node.port}" for node in cluster[: 3 if named == "all" else 1])

    async def test() -> None:
        async with open_backend(f"redis://{places}?prefix=test&timeout=1") as backend:
            await check_failover(backend, cluster, cluster[0].kill)

    with caplog.at_level(logging.WARNING, "mdash_backends"):
        run_long(test)
    said = [record.getMessage() for record in caplog.records if "subscriptions are interrupted" in record.getMessage()]
    assert 1 <= len(said) <= 4, "an outage is said once for each of its causes"


@pytest.mark.parametrize("ends", ["killed", pytest.param("demoted", marks=pytest.mark.proof)])
def test_a_master_of_sentinels_is_replaced(sentinels: Any, run_long: Run, ends: str) -> None:
    """The Sentinels' new master is found, whether the old one is gone or has become a replica."""
    old = sentinels.servers[0]
    end = old.kill if ends == "killed" else sentinels.fail_over

    async def test() -> None:
        async with open_backend(f"{sentinels.url}&prefix=test&timeout=1") as backend:
            await check_failover(backend, sentinels.servers, end)

    run_long(test)


def test_sentinels_that_cannot_be_used(sentinels: Any, run_long: Run) -> None:
    """A service that they do not know, and a password that is not theirs, are errors that show no secret."""
    url = sentinels.url

    async def test() -> None:
        for wrong, says in (
            (url.replace("/fleet", "/fleat"), "no service 'fleat'"),
            (url.replace("w4tch", "s3cret-too"), "(?i)invalid|wrongpass"),
            (url.replace(":s3cret@", ":s3cret-too@"), "(?i)invalid|wrongpass"),
        ):
            with pytest.raises(StorageError, match=says) as caught:
                async with open_backend(f"{wrong}&timeout=1"):
                    pass
            assert "s3cret" not in str(caught.value)
            assert "w4tch" not in str(caught.value)

    run_long(test)


def test_a_master_among_its_replicas(start_redis: Any, run: Run) -> None:
    """Of the hosts of a URL the one that takes writes is used; a replica alone is refused, and the reason given."""
    master, replica = start_redis(), start_redis()
    replica.command("REPLICAOF", master.host, str(master.port))

    async def test() -> None:
        async with open_backend(f"{replica.url},{master.host}:{master.port}") as backend:
            await backend.documents.put("things", "k", b"1")
        with pytest.raises(StorageError, match="it is a replica, which takes no writes"):
            async with open_backend(replica.url):
                pass

    run(test)
    master.kill()
    replica.kill()


@every_row("noticed_by", ["a write", "its role"])
def test_a_master_becomes_a_replica_by_hand(start_redis: Any, run: Run, noticed_by: str) -> None:
    """Calls and subscriptions go to the new master: subscribers are told of the gap, and hear what comes after it."""
    old, new = start_redis(), start_redis()
    new.command("REPLICAOF", old.host, str(old.port))

    async def test() -> None:
        async with (
            open_backend(f"{old.url},{new.host}:{new.port}") as backend,
            backend.bus.subscribe("t") as messages,
        ):
            await backend.documents.put("things", "k", b"1")
            new.command("REPLICAOF", "NO", "ONE")
            old.command("REPLICAOF", new.host, str(new.port))
            if noticed_by == "a write":
                with pytest.raises(StorageError, match="replica"):
                    await backend.documents.put("things", "k", b"2")
            with anyio.fail_after(FAILOVER), pytest.raises(StorageError, match="connection was lost"):
                await anext(messages)
            await works_again(lambda: backend.bus.publish("t", b"after"))
            with anyio.fail_after(FAILOVER):
                assert await anext(messages) == b"after"

    run(test)
    old.kill()
    new.kill()


@asynccontextmanager
async def moving(slot: int, source: Any, sink: Any) -> AsyncIterator[None]:
    """While the context lasts the slot is being moved; then its keys are, and the cluster knows it."""

    def set_slot(node: Any, *words: Any) -> None:
        node.command("CLUSTER", "SETSLOT", str(slot), *words)

    ids = {node: node.command("CLUSTER", "MYID") for node in (source, sink)}
    set_slot(sink, "IMPORTING", ids[source])
    set_slot(source, "MIGRATING", ids[sink])
    yield
    move_keys(slot, source, sink)
    for node in (sink, source):
        set_slot(node, "NODE", ids[sink])


def move_keys(slot: int, source: Any, sink: Any, count: int = 1000) -> None:
    """Move keys of a slot, at most so many."""
    if keys := source.command("CLUSTER", "GETKEYSINSLOT", str(slot), str(count)):
        source.command("MIGRATE", sink.host, str(sink.port), "", "0", "5000", "KEYS", *keys)


def test_a_slot_is_moved(start_redis_cluster: Any, run: Run, caplog: Any) -> None:
    """Calls succeed before, while and after its keys go to another node; those that need keys of both wait.

    A document that is new waits too: Redis does not know whether a key that is missing is still on its way.
    """
    nodes = start_redis_cluster()
    slot = slot_of(b"test:documents:things")
    source, sink = nodes if slot < 8192 else reversed(nodes)

    async def test() -> None:
        async with open_backend(f"{nodes[0].url}?prefix=test&timeout=20") as backend:
            documents = backend.documents
            for key in ("a", "b"):
                await documents.put("things", key, b"1")
            async with moving(slot, source, sink):
                await documents.put("things", "a", b"2")  # all is still there
                move_keys(slot, source, sink, 2)  # two of the four keys: of a, of b, index, version
                for key in ("a", "b"):
                    found = await documents.get("things", key)
                    assert found is not None
                    assert found.body == {"a": b"2", "b": b"1"}[key]
                waiting = anyio.Event()
                handler = logging.Handler()
                handler.emit = lambda record: waiting.set()  # type: ignore[method-assign]
                logging.getLogger("mdash_backends._redis_client").addHandler(handler)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(documents.put, "things", "a", b"3")
                    with anyio.fail_after(FAILOVER):
                        await waiting.wait()
                    move_keys(slot, source, sink)
                logging.getLogger("mdash_backends._redis_client").removeHandler(handler)
            await documents.put("things", "c", b"4")
            found_all = {document.key: document.body async for document in documents.scan("things")}
            assert found_all == {"a": b"3", "b": b"1", "c": b"4"}

    with caplog.at_level(logging.WARNING, "mdash_backends"):
        run(test)
    assert caplog.text.count("slots are being moved") == 1
    for node in nodes:
        node.kill()


# Settings


@every_row(
    ("options", "says"),
    [
        ({}, "it keeps nothing on a disk"),
        ({"save": "900 1"}, "it keeps snapshots only"),
        ({"appendonly": "yes"}, None),
        ({"appendonly": "yes", "maxmemory_policy": "allkeys-lfu"}, "maxmemory-policy is allkeys-lfu"),
        ({"appendonly": "yes", "maxmemory": "100mb", "maxmemory_policy": "volatile-lru"}, None),
    ],
)
def test_settings_that_may_lose_data(start_redis: Any, run: Run, caplog: Any, options: Any, says: str | None) -> None:
    """Each is said once, at the start."""
    server = start_redis(**options)

    async def test() -> None:
        async with open_backend(server.url) as backend:
            await backend.documents.put("things", "k", b"1")

    with caplog.at_level(logging.WARNING, "mdash_backends"):
        run(test)
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    assert len(said) == (says is not None)
    assert says is None or says in said[0]
    server.kill()


@every_row(
    ("forbidden", "query", "says"),
    [
        (["-config"], "", None),
        (["-config"], "?durable=1", "appendfsync could not be checked, because this user may not use CONFIG"),
        (
            ["-config", "-info"],
            "?durable=1",
            "maxmemory-policy and appendonly and appendfsync could not be checked, because this user may not use INFO",
        ),
        (["-config", "-info"], "", "maxmemory-policy could not be checked, because this user may not use INFO"),
    ],
)
def test_a_server_that_hides_its_settings(
    start_redis: Any, run: Run, caplog: Any, forbidden: list[str], query: str, says: str | None
) -> None:
    """A managed service forbids CONFIG, and some INFO: the backend works, and says once what it could not check."""
    server = start_redis(appendonly="yes", appendfsync="always")
    server.command("ACL", "SETUSER", "default", *forbidden)

    async def test() -> None:
        async with open_backend(f"{server.url}{query}") as backend:
            await backend.documents.put("things", "k", b"1")

    with caplog.at_level(logging.WARNING, "mdash_backends"):
        run(test)
    said = [record.getMessage().partition(": ")[2] for record in caplog.records]
    caplog.clear()
    assert said == ([says] if says else [])
    server.kill()


@contextmanager
def logged(level: int) -> Iterator[Callable[[], Awaitable[str]]]:
    """The backend's log from a level on: what it gives waits for the next line."""
    send, lines = anyio.create_memory_object_stream[str](100)
    handler = logging.Handler(level)
    handler.emit = lambda record: send.send_nowait(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("mdash_backends")
    logger.addHandler(handler)
    with send, lines:
        try:
            yield lines.receive
        finally:
            logger.removeHandler(handler)


EVICTS = {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}


def configure(server: Any, settings: Mapping[str, str]) -> None:
    """Change the settings of a server that runs."""
    server.command("CONFIG", "SET", *(word for pair in settings.items() for word in pair))


@every_row(
    ("good", "bad", "query", "says"),
    [
        ({}, EVICTS, "", "with maxmemory-policy allkeys-lru it forgets devices"),
        ({"appendonly": "yes", "appendfsync": "always"}, {}, "?durable=1", "the server has not appendonly yes"),
    ],
)
def test_each_master_of_a_cluster_is_checked(
    start_redis_cluster: Any, run: Run, good: dict[str, str], bad: dict[str, str], query: str, says: str
) -> None:
    """Not only the node that the URL names: one that would lose data is named and refused."""
    named, other = start_redis_cluster()
    configure(named, good) if good else None
    configure(other, bad) if bad else None

    async def test() -> None:
        with pytest.raises(StorageError, match=re.escape(f"redis at {other.host}:{other.port}: ") + f".*{says}"):
            async with open_backend(f"{named.url}{query}"):
                pass

    run(test)
    named.kill()
    other.kill()


def test_a_server_that_comes_later_is_checked_too(start_redis_cluster: Any, run: Run) -> None:
    """The connection was lost, and the server has other settings now: an error is logged, once as long as it lasts."""
    nodes = start_redis_cluster()

    async def test() -> None:
        async with open_backend(f"{nodes[0].url}?prefix=test&timeout=20") as backend:

            async def reconnect() -> None:
                for node in nodes:
                    node.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                for collection in COLLECTIONS:
                    await works_again(lambda name=collection: backend.documents.put(name, "k", b"1"))

            with logged(logging.ERROR) as next_line:
                configure(nodes[1], EVICTS)
                await reconnect()
                assert "allkeys-lru it forgets devices" in await next_line()
                configure(nodes[0], EVICTS)
                await reconnect()
                assert f"redis at {nodes[0].host}:{nodes[0].port}: " in await next_line()

    run(test)
    for node in nodes:
        node.kill()


def test_a_user_who_may_not_ask_for_the_nodes(start_redis_cluster: Any, run: Run) -> None:
    """As with Redis 6 and a user without dangerous commands: it is said, and each node is checked when it is used."""
    nodes = start_redis_cluster()
    configure(nodes[1], EVICTS)
    nodes[0].command("ACL", "SETUSER", "default", "-cluster")

    async def test() -> None:
        with logged(logging.WARNING) as next_line:
            async with open_backend(f"{nodes[0].url}?prefix=test") as backend:
                assert "the other nodes are not known until they are used" in await next_line()
                assert "it keeps nothing on a disk" in await next_line()
                for collection in COLLECTIONS:
                    await backend.documents.put(collection, "k", b"1")
                while "allkeys-lru it forgets devices" not in await next_line():
                    pass

    run(test)
    for node in nodes:
        node.kill()


def test_the_owner_of_a_slot_is_gone(start_redis_cluster: Any, run: Run) -> None:
    """A call goes to the node that has its slot now; if no other has it, the error says which server is away."""
    named, owner, heir = start_redis_cluster(spare=1)
    heir_id = heir.command("CLUSTER", "MYID")
    keys = {slot: key for key in map(b"%d".__mod__, range(1000)) if (slot := slot_of(key)) >= 8192}
    inherited, orphaned = list(keys)[:2]

    async def test() -> None:
        config = parse_redis_url(f"{named.url}?timeout=5")
        async with background_tasks() as tasks:
            client = RedisClient(config.home, config.server, tasks)
            for slot in (inherited, orphaned):
                await client.call(slot, b"SET", keys[slot], b"1")
            (link,) = [each for each in await client.masters() if each.server_name == f"redis at {owner.url[8:]}"]
            await to_thread.run_sync(owner.kill)
            while not link.lost:
                await anyio.lowlevel.checkpoint()
            for node in (heir, named):
                node.command("CLUSTER", "SETSLOT", str(inherited), "NODE", heir_id)
            await client.call(inherited, b"SET", keys[inherited], b"2")
            assert heir.command("GET", keys[inherited]) == b"2"
            with pytest.raises(StorageError, match=f"^redis at {owner.url[8:]}: no connection"):
                await client.call(orphaned, b"SET", keys[orphaned], b"2")

    run(test)
    for node in (named, heir):
        node.kill()


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        (
            b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n",
            "Redis 6.0 or newer, or Valkey, is needed",
        ),
        (
            b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hunter2secret' \r\n",
            "Redis 6.0 or newer, or Valkey, is needed",
        ),
        (b"-ERR unknown command HELLO 3 AUTH default hunter2secret\r\n", "Redis 6.0 or newer, or Valkey, is needed"),
        (b"-ERR not supported: HELLO 3 AUTH default hunter2secret\r\n", "not supported: HELLO 3 AUTH default …"),
    ],
    ids=["5.0.6", "HELLO is renamed", "a proxy", "another proxy"],
)
def test_a_server_that_is_too_old(run: Run, recorded: bytes, says: str) -> None:
    """Redis before 6.0 answers as recorded here, from 5.0.6, as does 7.0 without HELLO: the error says which version is
    needed. No answer gets the password into an error or into the log.
    """

    async def test() -> None:
        async def serve(stream: anyio.abc.ByteStream) -> None:
            async with stream:
                await stream.receive()
                await stream.send(recorded)
                await anyio.sleep_forever()

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
            url = f"redis://:hunter2secret@127.0.0.1:{port}"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, serve)
                with pytest.raises(StorageError, match=re.escape(says)) as caught:
                    async with open_backend(url):
                        pass
                assert "hunter2secret" not in "".join(traceback.format_exception(caught.value))
                tasks.cancel_scope.cancel()

    run(test)
