"""The Redis backend, on real servers: the whole contract, what the URL says, and what the keys look like there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from itertools import cycle
from typing import Any
from urllib.parse import quote

import anyio
import anyio.lowlevel
import pytest
import trustme
from anyio import to_thread
from rows import every_row

from mdash_backends import _redis_blobs, _redis_keys
from mdash_backends import redis as module
from mdash_backends._redis_client import slot_of
from mdashcore._errors import InvalidInput, NotFound, StorageError, TooLarge
from mdashcore.storage import ATOMIC, DURABLE, ORDERED, SHARED, Backend, Document, LogEntry, open_backend
from mdashcore.testing import BackendSuite
from mdashcore.testing._suite import ODD_KEYS

PATIENCE = 20  # seconds for what has to come

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def url(redis_server: Any) -> str:
    """A URL of an empty store; options are appended with ``&``."""
    redis_server.command("FLUSHALL")
    return f"{redis_server.url}/0?prefix=test"


async def source(*chunks: bytes) -> AsyncIterator[bytes]:
    """The chunks of a blob."""
    for chunk in chunks:
        yield chunk
        await anyio.lowlevel.checkpoint()


async def use_everything(backend: Backend) -> None:
    """Each verb once or more: what a user who lacks a permission would fail at."""
    version = await backend.documents.put("things", "k", b"1", expected=0)
    assert await backend.documents.get("things", "k") == Document("k", version, b"1")
    assert [document.key async for document in backend.documents.scan("things", "k")] == ["k"]
    assert await backend.documents.delete("things", "k")
    assert await backend.logs.append("l", 1.0, [b"0", b"1"]) == 0
    await backend.logs.trim("l", 1)
    assert list(await backend.logs.read("l", 0, 9)) == [LogEntry(1, 1.0, b"1")]
    assert await backend.logs.end("l") == 2
    assert await backend.blobs.put("b", source(b"bytes")) == 5
    assert await backend.blobs.read("b", 1, 3) == b"yte"
    assert [key async for key in backend.blobs.scan()] == ["b"]
    assert await backend.blobs.delete("b")
    async with backend.bus.subscribe("t") as messages:
        await backend.bus.publish("t", b"hello")
        with anyio.fail_after(PATIENCE):
            assert await anext(messages) == b"hello"


class OneServer(BackendSuite):
    """The contract, on one server, `server`, that has every write on disk before it answers."""

    server: Any

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_backend(f"{self.server.url}/0?prefix={name}&durable=1")

    @asynccontextmanager
    async def failing(self, name: str, backend: Backend) -> AsyncIterator[None]:
        """The server is killed, and started again."""
        await to_thread.run_sync(self.server.kill)
        try:
            yield
        finally:
            await to_thread.run_sync(self.server.start)


@pytest.mark.usefixtures("short_queues")
class TestRedis(OneServer):
    """The contract, on one server that has every write on disk before it answers."""

    flood = 350  # more than short queues hold
    topics = 200  # thousands are in the tests of faults

    @pytest.fixture(autouse=True)
    def _server(self, durable_redis: Any) -> None:
        self.server = durable_redis


@pytest.mark.usefixtures("short_queues")
class TestRedisCluster(BackendSuite):
    """The contract, on a cluster of two nodes: each refuses a script whose keys have not one slot, and that its own."""

    flood = 350  # more than short queues hold
    topics = 200  # thousands are in the tests of faults
    loops = ("trio",)  # what depends on the loop is as with one server

    @pytest.fixture(autouse=True)
    def _server(self, redis_cluster: Any) -> None:
        self.url = redis_cluster[0].url

    def open(self, name: str) -> AbstractAsyncContextManager[Backend]:
        return open_backend(f"{self.url}?prefix={name}")


@pytest.mark.proof
@pytest.mark.usefixtures("short_queues")
class TestValkey(OneServer):
    """The contract, on a Valkey server."""

    flood = 350  # more than short queues hold

    @pytest.fixture(autouse=True)
    def _server(self, valkey_server: Any) -> None:
        self.server = valkey_server


# What the URL says


def test_what_it_can(redis_server: Any, durable_redis: Any, run: Run) -> None:
    """Several processes can always share it; it is durable where the URL says so."""

    async def test() -> None:
        async with open_backend(f"{redis_server.url}?prefix=a") as backend:
            assert backend.capabilities == {SHARED, ORDERED, ATOMIC}
        async with open_backend(f"{durable_redis.url}?durable=1") as backend:
            assert backend.capabilities == {SHARED, DURABLE, ORDERED, ATOMIC}
        async with open_backend(f"{durable_redis.url}?durable=0") as backend:
            assert backend.capabilities == {SHARED, ORDERED, ATOMIC}

    run(test)


@pytest.mark.parametrize("options", [{}, {"appendonly": "yes", "appendfsync": "everysec"}])
def test_a_server_that_is_not_durable(start_redis: Any, run: Run, options: dict[str, str]) -> None:
    """``durable=1`` is refused where the server tells that it is not so."""
    server = start_redis(**options)

    async def test() -> None:
        with pytest.raises(StorageError, match="durable=1"):
            async with open_backend(f"{server.url}?durable=1"):
                pass

    run(test)
    server.kill()


def test_a_server_that_forgets(start_redis: Any, run: Run) -> None:
    """A server that throws keys away when its memory is full is refused; one that only could is not."""
    server = start_redis(maxmemory_policy="allkeys-lru")

    async def test() -> None:
        async with open_backend(server.url) as backend:
            await use_everything(backend)
        server.command("CONFIG", "SET", "maxmemory", "100mb")
        with pytest.raises(StorageError, match="allkeys-lru"):
            async with open_backend(server.url):
                pass

    run(test)
    server.kill()


@every_row(
    ("url", "says"),
    [
        ("redis://", "names a host"),
        ("redis:///0", "names a host"),
        ("redis://:s3cret@", "names a host"),
        ("redis://h:s3cret", "well-formed"),
        ("redis://h,:s3cret@", "names a host"),
        ("redis://:s3cret@h,", "names a host"),
        ("redis://:s3cret@h,i:j", "well-formed"),
        (f"redis://{','.join('h' * 17)}", "at most 16 hosts"),
        ("redis+sentinel://:s3cret@h", "the name of a service"),
        ("redis+sentinel://:s3cret@h/", "the name of a service"),
        ("redis+sentinel://h/fleet/x", "number of a database"),
        ("redis+sentinel://h/fleet?ssl_ca_certs=x.pem", "rediss://"),
        ("rediss+sentinel://h/fleet?ssl_ca_certs=/nowhere/ca.pem", "cannot be loaded"),
        ("redis://h?sentinel_password=s3cret", "no option 'sentinel_password'"),
        ("redis://[::1", "well-formed"),
        ("redis://:s3cret/x@h", "well-formed"),
        ("redis://h?prefix", "well-formed"),
        ("redis://h/x", "number of a database"),
        ("redis://h/-1", "number of a database"),
        ("redis://h/0/1", "number of a database"),
        ("redis://h/0#s3cret", "fragment"),
        ("redis://h?perfix=a", "no option 'perfix' in a Redis URL; there are: prefix, timeout, durable"),
        ("rediss://h?decode_responses=1", "ssl_ca_certs"),
        ("redis://h?prefix=a&prefix=b", "twice"),
        ("redis://h?prefix=", "prefix"),
        ("redis://h?prefix=a%7Db", "prefix"),
        (f"redis://h?prefix={'a' * 65}", "prefix"),
        ("redis://h?timeout=soon", "timeout"),
        ("redis://h?timeout=0", "timeout"),
        ("redis://h?timeout=nan", "timeout"),
        ("redis://h?timeout=61", "timeout"),
        ("redis://h?durable=yes", "durable"),
        ("redis://h?ssl_ca_certs=x.pem", "rediss://"),
        ("rediss://h?ssl_ca_certs=/nowhere/ca.pem", "cannot be loaded"),
        ("rediss://h?ssl_certfile=/nowhere/cert.pem", "cannot be loaded"),
        ("rediss://h?ssl_keyfile=/nowhere/key.pem", "needs ssl_certfile"),
    ],
)
def test_a_url_that_cannot_be_understood(run: Run, url: str, says: str) -> None:
    """The error says what is wrong, and shows nothing that could be a password."""

    async def test() -> None:
        with pytest.raises(InvalidInput, match=re.escape(says)) as caught:
            async with open_backend(url):
                pass
        assert "s3cret" not in str(caught.value)

    run(test)


def test_nothing_there(free_port: int, run: Run) -> None:
    """Without a listener opening fails immediately, and the error names the address."""

    async def test() -> None:
        with pytest.raises(StorageError, match=f"redis at 127.0.0.1:{free_port}"):
            async with open_backend(f"redis://127.0.0.1:{free_port}"):
                pass
        with pytest.raises(StorageError, match=re.escape("redis at a..b:6379")):
            async with open_backend("redis://a..b"):
                pass

    run(test)


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
def test_not_a_redis_server(run: Run, says: bytes | None) -> None:
    """What talks another protocol, hangs up or says nothing is an error, in time."""

    async def test() -> None:
        async def serve(stream: anyio.abc.ByteStream) -> None:
            async with stream:
                await stream.receive()
                if says is None:
                    await anyio.sleep_forever()
                if says:
                    await stream.send(says)

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, serve)
                with pytest.raises(StorageError), anyio.fail_after(10):
                    async with open_backend(f"redis://127.0.0.1:{port}?timeout=0.5"):
                        pass
                tasks.cancel_scope.cancel()

    run(test)


def test_a_password(start_redis: Any, run: Run) -> None:
    """A password is percent-decoded; a wrong one or none is an error that does not show it."""
    password = "p@ss:/?#%+\u00e9 w\u00f6rd"
    server = start_redis(requirepass=password)
    place = f"{server.host}:{server.port}"

    async def test() -> None:
        async with open_backend(f"redis://:{quote(password, safe='')}@{place}/3") as backend:
            await use_everything(backend)
        for wrong in (":s3cret@", "nobody:s3cret@", ""):
            with pytest.raises(StorageError) as caught:
                async with open_backend(f"redis://{wrong}{place}"):
                    pass
            assert "s3cret" not in str(caught.value)

    run(test)
    server.kill()


def test_a_user_with_the_permissions_that_are_documented(start_redis: Any, run: Run) -> None:
    """What the documentation has a user be given is enough for everything, and gives nothing else."""
    server = start_redis(appendonly="yes", appendfsync="always")
    found = re.search(r"``(ACL SETUSER mdash [^`]*)``", module.__doc__ or "")
    assert found is not None
    server.command(*found[1].replace("PASSWORD", "s3cret").split())

    async def test() -> None:
        place = f"redis://mdash:s3cret@{server.host}:{server.port}"
        async with open_backend(f"{place}?durable=1") as backend:
            await use_everything(backend)
        with pytest.raises(StorageError, match=r"(?i)permission"):
            async with open_backend(f"{place}?prefix=other&timeout=0.5"):
                pass

    run(test)
    for command in (["GET", "{other:documents:things}:value:k"], ["SUBSCRIBE", "other:bus:t"], ["FLUSHALL"]):
        assert b"permission" in server.command("ACL", "DRYRUN", "mdash", *command)
    server.kill()


def test_tls(redis_with_tls: None, start_redis: Any, free_port: int, tmp_path: Any, run: Run) -> None:
    """``rediss`` checks the server's certificate and name, and can show a certificate of its own."""
    authority, stranger = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = {name: str(tmp_path / f"{name}.pem") for name in ("cert", "key", "ca", "stranger", "client")}
    certificate.cert_chain_pems[0].write_to_path(files["cert"])
    certificate.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    stranger.cert_pem.write_to_path(files["stranger"])
    authority.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(files["client"])
    server = start_redis(
        port="0", tls_port=str(free_port), tls_cert_file=files["cert"], tls_key_file=files["key"],
        tls_ca_cert_file=files["ca"], tls_auth_clients="yes", requirepass="s3cret",
    )  # fmt: skip
    place = f"rediss://:s3cret@127.0.0.1:{free_port}/0?"
    shown = f"&ssl_certfile={files['client']}"

    async def test() -> None:
        async with open_backend(f"{place}ssl_ca_certs={files['ca']}{shown}") as backend:
            await use_everything(backend)
        for wrong in (
            f"{place}ssl_ca_certs={files['stranger']}{shown}",  # signed by another authority
            f"{place}{shown[1:]}",  # signed by no authority that the system trusts
            f"{place}ssl_ca_certs={files['ca']}",  # the server wants to see one too
            f"{place}ssl_ca_certs={files['ca']}{shown}".replace("127.0.0.1", "localhost"),  # of another name
            f"redis://:s3cret@127.0.0.1:{free_port}",
        ):
            with pytest.raises(StorageError) as caught:
                async with open_backend(wrong):
                    pass
            assert "s3cret" not in str(caught.value)

    run(test)
    server.kill()


# What is in there


def test_prefixes_and_databases_are_apart(redis_server: Any, run: Run) -> None:
    """Services with different prefixes or in different databases see nothing of each other, on the bus neither."""
    redis_server.command("FLUSHALL")
    places = ("0?prefix=one", "0?prefix=two", "1?prefix=one", "0?prefix=one:documents")

    async def test() -> None:
        for place in places:
            async with open_backend(f"{redis_server.url}/{place}") as backend:
                await use_everything(backend)
                await backend.documents.put("things", "k", b"1", expected=0)
                await backend.logs.append("other", 1.0, [b"0"])
                await backend.blobs.put("b", source(place.encode()))
        async with (
            open_backend(f"{redis_server.url}/{places[0]}") as listener,
            listener.bus.subscribe("t") as messages,
        ):
            for place in reversed(places):
                async with open_backend(f"{redis_server.url}/{place}") as backend:
                    await backend.bus.publish("t", place.encode())
                    assert await backend.blobs.read("b", 0, 100) == place.encode()
            with anyio.fail_after(PATIENCE):
                assert await anext(messages) == places[0].encode()

    run(test)


def test_odd_collections(url: str, run: Run) -> None:
    """Every text is a collection of its own, and no key reaches into another; half a surrogate is a text too."""
    texts = (*ODD_KEYS, "\ud800", "a}:value:b", "}:value:", "%7D", "}")
    keys = ("a", "}:value:a", "b}:value:a", "\udfff")

    async def test() -> None:
        async with open_backend(url) as backend:
            for collection in texts:
                for key in keys:
                    await backend.documents.put(collection, key, b"%d" % texts.index(collection), expected=0)
            for number, collection in enumerate(texts):
                found = {document.key: document.body async for document in backend.documents.scan(collection)}
                assert found == dict.fromkeys(keys, b"%d" % number)

    run(test)


def test_the_keys_can_be_read(redis_server: Any, url: str, run: Run) -> None:
    """A person with `redis-cli` finds everything where the documentation says it is."""

    async def test() -> None:
        async with open_backend(url) as backend:
            await backend.documents.put("devices", "alice/d1", b'{"a":1}')
            await backend.logs.append("alice", 1.5, [b'"x"', b'"y"'])
            await backend.blobs.put("firmware", source(b"bytes"))

    run(test)
    ask = redis_server.command
    assert ask("GET", "{test:documents:devices}:value:alice/d1") == b'1 {"a":1}'
    assert ask("ZRANGE", "{test:documents:devices}:index", "0", "-1") == [b"alice/d1"]
    assert ask("GET", "{test:documents:devices}:version") == b"1"
    entries = ask("XRANGE", "{test:log:alice}:entries", "-", "+")
    assert entries == [[b"0-1", [b"t", b"1.5", b"b", b'"x"']], [b"1-1", [b"t", b"1.5", b"b", b'"y"']]]
    assert ask("GET", "{test:log:alice}:end") == b"2"
    generation, size = ask("HGET", "{test:blobs}:heads", "firmware").split()
    assert size == b"5"
    assert ask("GET", b"{test:blobs}:data:" + generation) == b"bytes"
    assert ask("TTL", b"{test:blobs}:data:" + generation) == -1
    assert ask("GET", "{test:format}") == b"1"
    assert len(ask("KEYS", "*")) == 9


def test_another_format_is_refused(redis_server: Any, url: str, run: Run) -> None:
    """Data whose form a newer version has changed is not read as if it were of this one."""

    async def test() -> None:
        async with open_backend(url):
            pass
        redis_server.command("SET", "{test:format}", "2")
        with pytest.raises(StorageError, match="the data is of format 2; this program knows format 1"):
            async with open_backend(url):
                pass

    run(test)


def test_slots_are_those_of_the_server(redis_cluster: Any) -> None:
    """The slot that is computed for a hash tag is the one that the server computes for keys with it."""
    for text in (*ODD_KEYS, "mdash:documents:devices"):
        tag = text.encode("utf-8", "surrogatepass")
        if b"}" not in tag:
            assert redis_cluster[0].command("CLUSTER", "KEYSLOT", b"{%b}:value:{x}" % tag) == slot_of(tag)


def test_a_cluster_node_that_is_gone(start_redis_cluster: Any, run_long: Run) -> None:
    """Calls to a node that is gone fail; calls to the others go on; the node that has taken its slots over is asked."""
    home, away = start_redis_cluster()
    names = iter(f"log-{n}" for n in range(10_000))
    there, here = [], []

    async def test() -> None:
        async with open_backend(f"{home.url}?prefix=test&timeout=1") as backend:
            while len(there) < 2 or len(here) < 2:
                name = next(names)
                slot = slot_of(f"test:log:{name}".encode())
                (here if slot < 8192 else there).append((name, str(slot)))
            for name, _ in here + there:
                assert await backend.logs.end(name) == 0
            ids = {node: node.command("CLUSTER", "MYID") for node in (home, away)}
            for node in (away, home):
                node.command("CLUSTER", "SETSLOT", there[0][1], "NODE", ids[home])
            away.kill()
            with pytest.raises(StorageError):
                await backend.logs.end(there[1][0])
            assert await backend.logs.append(here[0][0], 1.0, [b"0"]) == 0
            assert await backend.logs.append(there[0][0], 1.0, [b"0"]) == 0

    run_long(test)
    home.kill()


def test_offsets_that_no_log_has(url: str, run: Run) -> None:
    """Every offset and limit of a read has an answer."""

    async def test() -> None:
        async with open_backend(url) as backend:
            await backend.logs.append("l", 1.0, [b"0", b"1"])
            for start in (2**63 - 1, 2**63, 2**64, 10**30):
                assert await backend.logs.read("l", start, 10) == ()
            assert [entry.offset for entry in await backend.logs.read("l", -5, 10**30)] == [0, 1]
            for limit in (0, -1):
                assert await backend.logs.read("l", 0, limit) == ()

    run(test)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 35])
def test_scans_go_page_by_page(url: str, run: Run, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Every document and blob is given once, however many pages they fill, while others come and go."""
    monkeypatch.setattr(_redis_keys, "SCAN_PAGE", 10)
    keys = [f"key-{n:03}" for n in range(count)]

    async def test() -> None:
        async with open_backend(url) as backend:
            for key in keys:
                await backend.documents.put("things", key, b"1")
                await backend.blobs.put(key, source(b"1"))
            found = []
            async for document in backend.documents.scan("things", "key-"):
                found.append(document.key)
                await backend.documents.put("things", document.key, b"2")
                await backend.documents.put("things", f"before-{document.key}", b"2")
                await backend.documents.put("things", f"other-{document.key}", b"2")
            assert found == keys
            assert [key async for key in backend.blobs.scan("key-")] == keys

    run(test)


def test_what_is_deleted_leaves_a_number(redis_server: Any, url: str, run: Run) -> None:
    """Of deleted documents and trimmed logs the counters stay: no version and no offset comes again."""

    async def test() -> None:
        async with open_backend(url) as backend:
            for key in ("a", "b"):
                await backend.documents.put("things", key, b"1")
            for key in ("a", "b"):
                await backend.documents.delete("things", key)
            await backend.logs.append("l", 1.0, [b"1"])
            await backend.logs.trim("l", 0)

    run(test)
    left = {b"{test:format}", b"{test:documents:things}:version", b"{test:log:l}:end", b"{test:log:l}:entries"}
    assert set(redis_server.command("KEYS", "*")) == left
    assert redis_server.command("XLEN", "{test:log:l}:entries") == 0


# Blobs


def test_a_blob_leaves_nothing_behind(redis_server: Any, url: str, run: Run) -> None:
    """What a failed put has written is removed, and so are the bytes of a blob that was replaced or deleted."""

    def stored() -> int:
        return len(redis_server.command("KEYS", "*:data:*"))

    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * 600_000
        assert stored() == 2
        raise ZeroDivisionError

    async def test() -> None:
        async with open_backend(url) as backend:
            await backend.blobs.put("b", source(b"first"))
            with pytest.raises(ZeroDivisionError):
                await backend.blobs.put("b", failing())
            assert stored() == 1
            await backend.blobs.put("b", source(b"second"))
            await backend.blobs.put("empty", source())
            assert stored() == 1
            await backend.blobs.delete("b")
            await backend.blobs.delete("empty")
            assert stored() == 0

    run(test)
    assert redis_server.command("KEYS", "*") == [b"{test:format}"]


def test_an_unfinished_blob_expires(redis_server: Any, url: str, run: Run) -> None:
    """Until it is complete, what is there of a blob has a time to live, which each piece starts anew."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield b"x" * 300_000
            (key,) = redis_server.command("KEYS", "*:data:*")
            assert _redis_blobs.STAGING_TIME - PATIENCE < redis_server.command("TTL", key) <= _redis_blobs.STAGING_TIME
            redis_server.command("EXPIRE", key, "100")

    async def test() -> None:
        async with open_backend(url) as backend:
            assert await backend.blobs.put("b", pieces()) == 600_000

    run(test)
    (key,) = redis_server.command("KEYS", "*:data:*")
    assert redis_server.command("TTL", key) == -1


@pytest.mark.parametrize("sizes", [(300_000, 300_000), (300_000,), (_redis_blobs.BLOB_PIECE,)])
def test_a_blob_that_took_too_long(redis_server: Any, url: str, run: Run, sizes: tuple[int, ...]) -> None:
    """A blob whose beginning has expired before its end came is an error, and the one from before stays."""

    async def slow() -> AsyncIterator[bytes]:
        for size in sizes:
            yield b"x" * size
            redis_server.command("DEL", "nothing", *redis_server.command("KEYS", "*:data:*"))

    async def test() -> None:
        async with open_backend(url) as backend:
            await backend.blobs.put("b", source())
            async with aclosing(slow()) as chunks:
                with pytest.raises(StorageError, match="expired"):
                    await backend.blobs.put("b", chunks)
            assert await backend.blobs.size("b") == 0

    run(test)


def test_a_blob_that_is_too_large(url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than a string of Redis may have are refused, and nothing is left of them."""
    monkeypatch.setattr(_redis_blobs, "MAX_BLOB", 500_000)

    async def test() -> None:
        async with open_backend(url) as backend:
            with pytest.raises(TooLarge, match="500000"):
                await backend.blobs.put("b", source(b"x" * 500_001))
            assert await backend.blobs.size("b") is None
            assert await backend.blobs.put("b", source(b"x" * 500_000)) == 500_000

    run(test)


def test_a_blob_is_replaced_while_it_is_read(url: str, run: Run) -> None:
    """A read gives bytes of one blob only, however often that is replaced meanwhile."""
    size = 600_000  # three pieces

    async def test() -> None:
        async with open_backend(url) as backend:
            await backend.blobs.put("b", source(b"0" * size))

            seen: set[bytes] = set()

            async def replace() -> None:
                for n in cycle(range(10)):
                    if len(seen) >= 5:
                        break
                    await backend.blobs.put("b", source(b"%d" % n * size))

            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(replace)
                    while len(seen) < 5:
                        found = await backend.blobs.read("b", 0, size)
                        assert len(found) == size
                        assert found == found[:1] * size
                        seen.add(found[:1])

    run(test)


def test_a_blob_is_deleted_while_it_is_replaced(redis_server: Any, url: str, run: Run) -> None:
    """The last change wins: afterwards there is one whole blob or none, and nothing of the others."""

    async def test() -> None:
        async with open_backend(url) as backend:
            for _ in range(20):
                async with anyio.create_task_group() as tasks:
                    for n in range(4):
                        tasks.start_soon(backend.blobs.put, "b", source(b"%d" % n * 1000))
                        tasks.start_soon(backend.blobs.delete, "b")
                keys = [key async for key in backend.blobs.scan()]
                assert len(redis_server.command("KEYS", "*:data:*")) == len(keys)
                if (size := await backend.blobs.size("b")) is None:
                    assert keys == []
                    with pytest.raises(NotFound):
                        await backend.blobs.read("b", 0, 1)
                else:
                    assert (keys, size) == (["b"], 1000)
                    assert len(set(await backend.blobs.read("b", 0, size))) == 1

    run(test)


# The life of a backend


def test_an_error_of_the_body_comes_out_as_it_is(url: str, run: Run) -> None:
    """What is raised while the backend is open arrives outside in no group, with its cause and its context."""

    async def test() -> None:
        error, cause, context = ValueError("body"), KeyError("cause"), IndexError("context")

        async def body() -> None:
            async with open_backend(url):
                try:
                    raise context
                except IndexError:
                    raise error from cause

        with pytest.raises(ValueError) as caught:
            await body()
        assert caught.value is error
        assert (error.__cause__, error.__context__) == (cause, context)
        with pytest.raises(ExceptionGroup) as two:
            async with open_backend(url):
                raise ExceptionGroup("two", [error, context])
        assert two.value.exceptions == (error, context)

    run(test)


def test_last_writes_of_a_cancelled_task(url: str, run: Run) -> None:
    """The connection lives until the body has ended: a shielded write succeeds while all around is cancelled."""

    async def test() -> None:
        async with open_backend(url) as other:
            with anyio.CancelScope() as scope:
                async with open_backend(url) as backend:
                    try:
                        scope.cancel()
                        await anyio.sleep_forever()
                    finally:
                        with anyio.CancelScope(shield=True):
                            await backend.documents.put("things", "k", b"1")
            assert scope.cancelled_caught
            assert await other.documents.get("things", "k") is not None

    run(test)


def test_a_backend_that_is_closed(redis_server: Any, url: str, run: Run) -> None:
    """After it was closed calls fail, iterators end, and the server has no connection left."""

    async def test() -> None:
        ended = anyio.Event()

        async def iterate(messages: AsyncIterator[bytes]) -> None:
            assert [message async for message in messages] == []
            ended.set()

        async with anyio.create_task_group() as tasks:
            async with open_backend(url) as backend:
                subscription = backend.bus.subscribe("t")
                tasks.start_soon(iterate, await subscription.__aenter__())
                await backend.documents.put("things", "k", b"1")
            with anyio.fail_after(PATIENCE):
                await ended.wait()
            with pytest.raises(StorageError, match="closed"):
                await backend.documents.get("things", "k")
            await subscription.__aexit__(None, None, None)
            with pytest.raises(StorageError, match="closed"):
                async with backend.bus.subscribe("t"):
                    pass

    run(test)
    assert len(redis_server.command("CLIENT", "LIST").splitlines()) == 1  # the one that asks


def test_connections_are_few(redis_server: Any, url: str, run: Run) -> None:
    """However many tasks call and subscribe, there are two connections: one for commands, and one for messages."""

    async def test() -> None:
        async with open_backend(url) as backend, anyio.create_task_group() as tasks:
            done = 0
            all_done = anyio.Event()

            async def use(n: int) -> None:
                nonlocal done
                async with backend.bus.subscribe(f"t{n % 20}"):
                    for _ in range(3):
                        await backend.documents.put("things", f"{n}", b"1")
                    done += 1
                    if done == 500:
                        assert len(redis_server.command("CLIENT", "LIST").splitlines()) == 3  # and the one that asks
                        all_done.set()
                    await all_done.wait()

            for n in range(500):
                tasks.start_soon(use, n)

    run(test)


def test_a_subscriber_that_leaves_is_sent_nothing(redis_server: Any, url: str, run: Run) -> None:
    """When the last subscriber of a topic has left, the server knows of none; while one stays, it hears on."""

    def listeners() -> list[Any]:
        found: list[Any] = redis_server.command("PUBSUB", "NUMSUB", "test:bus:0:a", "test:bus:0:b")
        return found[1::2]

    async def test() -> None:
        async with open_backend(url) as backend:
            async with backend.bus.subscribe("a"), backend.bus.subscribe("b"):
                async with backend.bus.subscribe("b"):
                    assert listeners() == [1, 1]
                async with backend.bus.subscribe("c"):  # when this is known, so is what was said before
                    assert listeners() == [1, 1]
            async with backend.bus.subscribe("c"):
                assert listeners() == [0, 0]

    run(test)


def test_scripts_are_flushed(redis_server: Any, url: str, run: Run) -> None:
    """A server that has forgotten the scripts, as after a restart, is told them again."""

    async def test() -> None:
        async with open_backend(url) as backend:
            for _ in range(2):
                await use_everything(backend)
                redis_server.command("SCRIPT", "FLUSH")
                redis_server.command("FLUSHDB")

    run(test)


def test_one_round_trip(redis_server: Any, url: str, run: Run) -> None:
    """Compare-and-set and the other common verbs are one command each, once the server knows the scripts."""

    async def test() -> None:
        async with open_backend(url) as backend:
            verbs: tuple[tuple[str, Callable[[], Awaitable[Any]]], ...] = (
                ("EVALSHA", partial(backend.documents.put, "things", "k", b"1", expected=0)),
                ("GET", partial(backend.documents.get, "things", "k")),
                ("EVALSHA", partial(backend.documents.delete, "things", "k")),
                ("EVALSHA", partial(backend.logs.append, "l", 1.0, [b"0", b"1"])),
                ("XRANGE", partial(backend.logs.read, "l", 0, 10)),
            )
            for _, verb in verbs:
                await verb()
            with redis_server.monitor() as seen:
                for name, verb in verbs:
                    await verb()
                    (command,) = seen()
                    assert f'] "{name}" ' in command

    run(test)
