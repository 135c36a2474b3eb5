"""``/api/v2/metrics``: the numbers of one's own devices, for an engine that keeps their history."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from mdashcore._errors import InvalidInput, StorageError
from mdashcore.filters import parse_place
from mdashcore.hub.device_list import ListedDevice
from mdashcore.hub.presence import OFFLINE_RECORD
from mdashcore.hub.records.schema import PresenceRecord
from mdashcore.identity import Device
from mdashcore.server.metrics.device_table import MAX_PLACES, DeviceTable, parse_places
from mdashcore.server.metrics.exposition import OPEN_METRICS, wants_open_metrics
from mdashcore.shadow import Shadow

NOW = 1_700_000_000


def listed(name: str = "Lamp", **reported: Any) -> ListedDevice:
    """A device that reported so at `NOW`."""
    shadow, _ = Shadow().update({"state": {"reported": reported}}, now=NOW)
    return ListedDevice(Device("alice", "lamp", name, "", 0.0), OFFLINE_RECORD, shadow)


def text_of(device: ListedDevice, *places: str, now: float = NOW, open_metrics: bool = True) -> str:
    """What is answered for one device."""
    table = DeviceTable(parse_places(places), now)
    table.add(device, None)
    return "".join(table.lines(open_metrics=open_metrics))


def samples(text: str) -> dict[str, float]:
    """By name, and place if there is one; OpenMetrics' own strict parser reads the text."""
    return {
        sample.name + (f" {sample.labels['place']}" if "place" in sample.labels else ""): sample.value
        for family in open_metrics.text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_metrics_of_devices(alice: Any, bob: Any) -> None:
    """One's own, with id and name as labels; the places that were asked for, and no others."""
    await bob.register("bobs")
    await alice.register("away")
    await alice.http.put("/devices/away", json={"name": 'say "hi"\\'})
    async with await alice.connect("lamp") as device:
        stats = {"ram_free": 100, "ram_total": 400}
        state = {"state": {"reported": {"stats": stats, "sensors": {"t": 21.5, "on": True, "words": "5"}}}}
        await device.send({"method": "Dash.Shadow.Update", "params": state, "id": 1})
        while (await device.receive()).get("id") != 1:
            pass
        query = "?place=reported.sensors.t&place=reported.sensors.on&place=reported.sensors.words"
        answer = await alice.http.get(f"/metrics{query}")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.headers["vary"] == "Accept"
        found = {
            (sample.name, sample.labels["id"], sample.labels.get("place")): (sample.labels["name"], sample.value)
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        filtered = await alice.http.get("/metrics?filter=offline", headers={"Accept": "application/openmetrics-text"})
    seen = "mdash_device_last_seen_timestamp_seconds"
    assert found.pop((seen, "lamp", None))[1] > NOW
    assert found == {
        ("mdash_device_online", "away", None): ('say "hi"\\', 0),
        ("mdash_device_online", "lamp", None): ("lamp", 1),
        ("mdash_device_ram_free_bytes", "lamp", None): ("lamp", 100),
        ("mdash_device_ram_size_bytes", "lamp", None): ("lamp", 400),
        ("mdash_device_value", "lamp", "reported.sensors.t"): ("lamp", 21.5),
        ("mdash_device_value", "lamp", "reported.sensors.on"): ("lamp", 1),
    }
    assert filtered.headers["content-type"] == OPEN_METRICS
    assert samples(filtered.text) == {"mdash_device_online": 0}


async def test_requests_that_are_refused(alice: Any, anyone: Any) -> None:
    """Without a key, with places that are none, with too many."""
    assert (await anyone.get("/metrics")).status_code == 401
    for query in (
        "place=",
        "place=reported",
        "place=nowhere.t",
        "place=reported..t",
        "place=a&place=",
        "plaec=reported.t",
    ):
        assert (query, (await alice.http.get(f"/metrics?{query}")).status_code) == (query, 400)
    many = "&".join(f"place=reported.p{number}" for number in range(MAX_PLACES + 1))
    assert (await alice.http.get(f"/metrics?{many}")).status_code == 400
    assert (await alice.http.get(f"/metrics?{many.partition('&')[2]}")).status_code == 200
    assert (await alice.http.head("/metrics")).status_code == 200


async def test_a_store_that_fails_is_an_error(alice: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not half of the devices, which a graph would show as removed."""

    async def broken(*_: Any) -> Any:
        yield ListedDevice(Device("alice", "lamp", "", "", 0.0), OFFLINE_RECORD, Shadow())
        raise StorageError("away")

    monkeypatch.setattr(server.service.hub.device_list, "select", broken)
    answer = await alice.http.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, 503)


def test_firmware_of_all_ages() -> None:
    """RAM of the newest form that is there; uptime goes on after the report, and not for a device that is away."""
    assert samples(text_of(listed(ota={"ram_free": 5, "ram_size": 9, "uptime": 7}))) == {
        "mdash_device_online": 0, "mdash_device_ram_free_bytes": 5, "mdash_device_ram_size_bytes": 9,
    }  # fmt: skip
    found = samples(text_of(listed(stats={"ram_free": 1}, ota={"ram_free": 5})))
    assert found["mdash_device_ram_free_bytes"] == 1


def test_uptime_goes_on() -> None:
    """By the time since its report; a clock that was set back takes nothing away."""
    device = listed(ota={"uptime": 7})
    online = ListedDevice(device.device, PresenceRecord(1, "node", 0.0), device.shadow)
    assert samples(text_of(online, now=NOW + 60))["mdash_device_uptime_seconds"] == 67
    assert samples(text_of(online, now=NOW - 60))["mdash_device_uptime_seconds"] == 7


@given(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans())
def test_any_name_and_number_can_be_read(name: str, number: float) -> None:
    """By strict parsers of both formats, as they were."""
    device = listed(name, sensors={"a.b": number})
    place = r"reported.sensors.a\.b"
    for family in open_metrics.text_string_to_metric_families(text_of(device, place)):
        for sample in family.samples:
            assert (sample.labels["id"], sample.labels["name"]) == ("lamp", name)
            assert sample.value == {"mdash_device_online": 0}.get(sample.name, float(number))
    plain = text_of(device, place, open_metrics=False)
    assert len(list(text_string_to_metric_families(plain))) == plain.count("# TYPE")


def test_numbers_beyond_doubles_are_left_out() -> None:
    """As are text, objects, lists and what is not there."""
    device = listed(a=10**400, b="5", c={"x": 1}, d=[1])
    assert samples(text_of(device, *(f"reported.{key}" for key in "abcdz"))) == {"mdash_device_online": 0}


def test_places() -> None:
    """A dot that belongs to a key is escaped, as in filters."""
    assert parse_place(r"reported.a\.b.c") == ("reported", "a.b", "c")
    for text in ("", "reported", ".a", "reported.", "state.a", "reported." + "x" * 600):
        with pytest.raises(InvalidInput):
            parse_place(text)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3", True),
        ("text/plain,application/openmetrics-text;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        (";;,=,q=1", False),
    ],
)
def test_which_format_is_wanted(accept: str, wanted: bool) -> None:
    """What Prometheus sends, and others."""
    assert wants_open_metrics(accept) is wanted
