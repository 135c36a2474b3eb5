"""``GET /devices/:id/series``: what a device has reported over time."""

from __future__ import annotations

import csv
import io
import time

import pytest


@pytest.fixture
async def lamp(alice):
    """A device that has reported 3, -1 and text at `=t.b`, and once nothing there."""
    await alice.register("lamp")
    for value in (3, "hot", -1, {"c": 1}):
        state = {"reported": {"=t": {"b": value}, "on": True}}
        assert (await alice.http.post("/devices/lamp/shadow", json={"state": state})).is_success
    return "/devices/lamp/series"


async def test_the_values_of_places(alice, lamp):
    """Each place has its buckets; a place that was never reported has none. `reported.` may stand before a place."""
    begin = time.time() - 60
    query = {"path": ["=t.b", "reported.on", "never"], "from": str(begin), "to": str(begin + 120), "points": "1"}
    found = (await alice.http.get(lamp, params=query)).json()
    assert found == {
        "from": begin,
        "to": begin + 120,
        "step": pytest.approx(120),
        "series": [
            {"path": "=t.b", "points": [{"time": begin, "min": -1.0, "avg": 1.0, "max": 3.0, "count": 2}]},
            {"path": "reported.on", "points": [{"time": begin, "min": 1.0, "avg": 1.0, "max": 1.0, "count": 4}]},
            {"path": "never", "points": []},
        ],
        "gaps": [{"from": found["read_from"], "to": begin + 120}],
        "read_from": pytest.approx(begin + 60, abs=30),
        "complete": True,
    }


@pytest.mark.parametrize("accept", [True, False])
async def test_a_series_as_csv(alice, lamp, accept):
    """By the header Accept or by `format=csv`. No cell is a formula, and numbers are numbers to a reader of CSV."""
    query = {"path": ["=t.b", "on"], "points": "1", **({} if accept else {"format": "csv"})}
    headers = {"Accept": "text/csv"} if accept else {}
    response = await alice.http.get(lamp, params=query, headers=headers)
    assert response.headers["Content-Type"].startswith("text/csv")
    assert response.headers["Content-Disposition"] == "attachment; filename*=UTF-8''lamp.csv"
    assert "Accept" in response.headers["Vary"]
    lines = response.text.split("\r\n")
    assert lines[0] == "path,time,min,avg,max,count"
    assert lines[1].startswith('"\'=t.b",')
    assert lines[1].endswith(',"-1.0",1.0,3.0,2')
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [float(row["min"]) for row in rows] == [-1, 1]


async def test_a_table_says_whether_it_is_complete(alice, lamp, monkeypatch):
    """By a header: one that a bound has cut is not taken for all that is stored."""
    query = {"path": "on", "format": "csv"}
    assert (await alice.http.get(lamp, params=query)).headers["X-Complete"] == "true"
    monkeypatch.setattr("mdashcore.hub.series_reader.MAX_PASS_ENTRIES", 0)
    assert (await alice.http.get(lamp, params=query)).headers["X-Complete"] == "false"


async def test_times_are_unix_seconds_or_rfc_3339(alice, lamp):
    """Both name the same moment; without an offset from UTC a time names none."""
    query = {"path": "on", "from": "2026-01-01T00:00:00.5Z", "to": "1798761600"}
    found = (await alice.http.get(lamp, params=query)).json()
    assert (found["from"], found["to"]) == (1767225600.5, 1798761600.0)


NO_QUERIES = [
    ({}, "path"),
    ({"path": ["t"] * 17}, "path"),
    ({"path": ""}, "place"),
    ({"path": "a..b"}, "place"),
    ({"path": "a" * 600}, "512"),
    ({"path": "t", "points": "0"}, "points"),
    ({"path": "t", "points": "2001"}, "points"),
    ({"path": "t", "from": "yesterday"}, "from"),
    ({"path": "t", "from": "2026-01-01T00:00:00"}, "from"),
    ({"path": "t", "to": "1e400"}, "to"),
    ({"path": "t", "to": "-5"}, "to"),
    ({"path": "t", "from": "5", "to": "5"}, "end"),
    ({"path": "t", "from": "6", "to": "5"}, "end"),
    ({"path": "t", "format": "xml"}, "format"),
    ({"path": "t", "place": "t"}, "place"),
]


async def test_what_is_no_query_is_refused(alice, lamp):
    """400, and the message names what is wrong."""
    for query, word in NO_QUERIES:
        response = await alice.http.get(lamp, params=query)
        assert (query, response.status_code) == (query, 400)
        assert word in response.json()["error"]["message"], response.text


async def test_another_account_has_no_series(alice, make_person, lamp):
    """404, as for a device that does not exist."""
    bob = await make_person("bob")
    assert (await bob.http.get(lamp, params={"path": "on"})).status_code == 404
    assert (await alice.http.get("/devices/none/series", params={"path": "on"})).status_code == 404


async def test_passes_have_a_limit(alice, lamp, monkeypatch):
    """Beyond that of the process it is 429 with a time to come back; a place is free again after each answer."""
    monkeypatch.setattr("mdashcore.server.service.MAX_LOG_PASSES", 0)
    response = await alice.http.get(lamp, params={"path": "on"})
    assert (response.status_code, "Retry-After" in response.headers) == (429, True)
    monkeypatch.setattr("mdashcore.server.service.MAX_LOG_PASSES", 1)
    for _ in range(3):
        assert (await alice.http.get(lamp, params={"path": "on"})).status_code == 200
