"""The guide "Scale": its settings, and its commands on real Redis servers."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("redis_servers", Path(__file__).parents[1] / "backends" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_redis_servers = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _redis_servers  # what is defined there looks for its module
_spec.loader.exec_module(_redis_servers)

redis_program = _redis_servers.redis_program
start_redis = _redis_servers.start_redis
start_redis_cluster = _redis_servers.start_redis_cluster
start_sentinels = _redis_servers.start_sentinels

PATH = "docs/how_to_guides/scale.md"
BACKUP = Path(__file__).parents[1] / "backends" / "stored" / "0.1" / "backup.jsonl"
SERVE = "exec mdash serve --bind 127.0.0.1:0"


@pytest.fixture
def started(start_redis):
    """Starts servers, which end with the test."""
    servers = []

    def start(**options):
        servers.append(start_redis(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def served(page, mark):
    """The last command of a block, on a free port."""
    line = page(PATH).code(mark).strip().splitlines()[-1]
    assert line.startswith("mdash serve --store ")
    return line.replace("mdash serve", SERVE)


def test_the_settings_are_known_to_redis(page, started, start):
    """A Redis with them has them, and the service has nothing to say about it."""
    lines = [line.split(" ", 1) for line in page(PATH).code("redis settings").splitlines()]
    redis = started(**{name.replace("-", "_"): value for name, value in lines})
    assert redis.command("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"%d" % (4 * 2**30)]
    for name, value in lines:
        if name != "maxmemory":
            assert redis.command("CONFIG", "GET", name) == [name.encode(), value.encode()]
    with start(f"{SERVE} --store {redis.url}/0") as process:
        process.expect(r"^Listening on ")
        assert "redis at" not in process.said


def test_data_are_moved_into_a_cluster(page, started, start_redis_cluster, run):
    """The lines of the page, with the addresses of a small cluster; what was in one Redis is in the other."""
    old, nodes = started(), start_redis_cluster()
    places = ",".join(f"{node.host}:{node.port}" for node in nodes)
    code = page(PATH).code("move")
    for pattern, place in ((r"10\.0\.0\.1,10\.0\.0\.2,10\.0\.0\.3", places), (r"10\.0\.0\.9", f"127.0.0.1:{old.port}")):
        code, count = re.subn(pattern, place, code)
        assert count
    run(f"mdash store import redis://127.0.0.1:{old.port} {BACKUP}")
    run(code)
    exports = [
        [json.loads(line) for line in run(f"mdash store export {url} - 2>/dev/null").stdout.splitlines()]
        for url in (f"redis://127.0.0.1:{old.port}", f"redis://{places}")
    ]
    assert exports[0] == exports[1]
    assert any(line.get("key") == "alice/lamp" for line in exports[1])
    for node in nodes:
        node.kill()


@pytest.mark.proof
def test_a_cluster_is_made_and_served_from(page, started, start, run):
    """By both lines of the page."""
    block = page(PATH).code("cluster")
    nodes = [started(cluster_enabled="yes", cluster_port=str(_redis_servers.ports.free_port())) for _ in range(6)]
    create, serve = block.replace("\\\n", "").strip().splitlines()
    for number, node in enumerate(nodes, 1):
        create = create.replace(f"10.0.0.{number}:6379", f"127.0.0.1:{node.port}")
        serve = serve.replace(f"10.0.0.{number}", f"127.0.0.1:{node.port}")
    run(create)
    _redis_servers.wait_until(
        lambda: all(_redis_servers.READY_CLUSTER.match(node.command("CLUSTER", "INFO")) for node in nodes)
    )
    with start(serve.replace("mdash serve", SERVE)) as process:
        process.expect(r"^Listening on ")


@pytest.mark.proof
def test_sentinels_are_asked(page, start_sentinels, start):
    """By the line of the page, with the passwords of these."""
    service = start_sentinels()
    line = served(page, "sentinel")
    places, _, rest = service.url.partition("@")[2].partition("/")
    line = line.replace("10.0.0.1,10.0.0.2,10.0.0.3", f":s3cret@{places}")
    line = line.replace("fleet?timeout=2", f"{rest}&timeout=2")
    with start(line) as process:
        process.expect(r"^Listening on ")
        assert "s3cret" not in process.said
    service.close()
    for server in service.servers:
        server.kill()
