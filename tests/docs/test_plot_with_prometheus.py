"""The guide to Prometheus, with a real one: its configuration, its queries, and the dashboard for Grafana."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from mdashcore.server.metrics.merging import merge

PATIENCE = 30.0  # seconds for the first sample: far above the interval

GUIDE = "docs/how_to_guides/plot_with_prometheus.md"

DASHBOARD = Path(__file__).parents[2] / GUIDE.replace(".md", ".json")

VARIABLES = {"$__rate_interval": "1m", "$device": ".*", "$place": ".*"}
"""What Grafana puts into queries."""


@attrs.frozen
class Prometheus:
    """A Prometheus that reads a server as the guide says."""

    http: httpx.Client

    def query(self, query: str) -> list[dict[str, Any]]:
        """The series of a query now. Whatever is wrong with the query fails."""
        answer = self.http.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def wait_for(self, query: str) -> dict[str, Any]:
        """The first series of a query, as soon as there is one."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.query(query)):
            assert time.monotonic() < deadline, f"never a sample of {query}: {self.targets()}"
            time.sleep(0.05)
        return found[0]

    def targets(self) -> list[str]:
        """The errors of what it reads."""
        found = self.http.get("/api/v1/targets").json()["data"]["activeTargets"]
        return [target["lastError"] for target in found]

    def metrics(self) -> set[str]:
        """The names of all metrics that it has read of, also of those without a sample, without their suffixes."""
        return {_bare(name) for name in self.http.get("/api/v1/metadata").json()["data"]}


def _bare(name: str) -> str:
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


def metrics_of(query: str) -> set[str]:
    """The names of the metrics in a query."""
    return {_bare(name) for name in re.findall(r"\b(?:mdash|process)_\w+", re.sub(r'"[^"]*"', "", query))}


@pytest.fixture(scope="module")
def prometheus(page, start, run, tmp_path_factory) -> Iterator[Prometheus]:
    """The server of the guide with a device that has reported, and Prometheus with its configuration."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    guide = page(GUIDE)
    serve = guide.code("serve").strip().replace("127.0.0.1:8081", "127.0.0.1:0")
    with start(f"exec {serve} --bind 127.0.0.1:0") as server:
        address = server.expect(r"^Listening on http://(\S+)$")[1]
        beside = server.expect(r"metrics are at http://(\S+)/metrics$")[1]
        env = {"MDASH_SERVER": f"http://{address}", "MDASH_USER": "admin:SECRET"}
        key = folder / "mdash.key"
        run(guide.code("key").replace("/etc/prometheus/mdash.key", str(key)) + "mdash devices add lamp\n", env=env)
        report = {"state": {"reported": {"sensors": {"t": 21.5}, "stats": {"ram_free": 100, "ram_lwm": 50}}}}
        url = f"http://{address}/api/v2/devices/lamp/shadow"
        authorization = {"Authorization": f"Bearer {key.read_text().strip()}"}
        assert httpx.post(url, json=report, headers=authorization).status_code == 200
        config = guide.code("prometheus")
        for ours, there in {
            "/etc/prometheus/mdash.key": str(key),
            "127.0.0.1:8080": address,
            "127.0.0.1:8081": beside,
            "scrape_interval: 30s": "scrape_interval: 200ms",
        }.items():
            assert config.count(ours) == 1, ours
            config = config.replace(ours, there)
        (folder / "prometheus.yml").write_text(config)
        options = f"--config.file={folder}/prometheus.yml --storage.tsdb.path={folder}/data"
        with start(f"exec {program} {options} --web.listen-address=127.0.0.1:0 --log.format=json") as process:
            found = process.expect(r'"address":"(127\.0\.0\.1:[1-9]\d*)"')[1]
            process.expect("Server is ready to receive web requests")
            with httpx.Client(base_url=f"http://{found}", timeout=PATIENCE) as client:
                yield Prometheus(client)


def test_a_device_is_seen(prometheus):
    """Its numbers arrive, with its id, its name and the place; and those of the server."""
    found = prometheus.wait_for('mdash_device_value{place="reported.sensors.t"}')
    assert (found["metric"]["id"], found["metric"]["name"], found["value"][1]) == ("lamp", "lamp", "21.5")
    assert prometheus.wait_for("mdash_device_online")["value"][1] == "0"
    assert prometheus.wait_for("mdash_device_ram_free_bytes")["metric"]["job"] == "mdash-devices"
    assert prometheus.wait_for("mdash_info")["metric"]["job"] == "mdash-server"
    assert set(prometheus.targets()) == {""}


def test_the_queries_of_the_guide(page, prometheus):
    """Prometheus accepts each, and each asks for metrics that there are."""
    prometheus.wait_for("mdash_device_online")
    prometheus.wait_for("mdash_info")
    blocks = page(GUIDE).blocks("query")
    assert len(blocks) > 5
    for block in blocks:
        prometheus.query(block.code)
        assert metrics_of(block.code) <= prometheus.metrics(), block.code
    found = prometheus.query(blocks[0].code)
    assert [series["value"][1] for series in found] == ["21.5"]


def test_every_metric_is_documented_and_no_other(page, prometheus):
    """Those of devices in the guide, those of the server in the reference."""
    prometheus.wait_for("mdash_device_online")
    prometheus.wait_for("mdash_info")
    known = {name for name in prometheus.metrics() if name.startswith("mdash_")}
    table = page("docs/reference/rest_api.md").section("### `GET /metrics`")
    documented = set(re.findall(r"`(mdash_\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))
    guide = page(GUIDE).section("## The devices")
    of_devices = set(re.findall(r"`(mdash_device_\w+)`", guide))
    of_workers = {metric.name for metric in merge({}, {})}  # this server is one process
    assert of_workers <= documented
    assert (documented - of_workers) | of_devices == known
    assert not documented & of_devices


def test_the_dashboard(prometheus):
    """So with each of its queries. Every metric of devices and servers is in one of them, but for its version."""
    prometheus.wait_for("mdash_device_online")
    prometheus.wait_for("mdash_info")
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    known = prometheus.metrics()
    for query in queries:
        asked = query
        for name, value in VARIABLES.items():
            asked = asked.replace(name, value)
        assert "$" not in asked, query
        prometheus.query(asked)
        assert metrics_of(asked)
        assert metrics_of(asked) <= known, query
    shown = set().union(*map(metrics_of, queries))
    known = {name for name in known if name.startswith("mdash_")}
    assert known - shown == {"mdash_info", "mdash_device_last_seen_timestamp_seconds", "mdash_device_ram_size_bytes"}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
            prometheus.wait_for(f'{metric}{{{label}!=""}}')
