"""The benchmarks, in a form that measures nothing: they start, take turns, check answers, and write what they find."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from benchmarks._redis import find_redis
from benchmarks.pieces import PIECES

from benchmarks import fleet

ROOT = Path(__file__).parents[2]
LOAD = [name for name in ("picows", "uvloop") if importlib.util.find_spec(name) is None]


def run(folder: Path, *rows: str) -> dict[str, Any]:
    """Run rows; what they have written for machines."""
    command = [sys.executable, "-m", "benchmarks", *rows, "--quick", "--results", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads((folder / "results.json").read_text()))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of the rows that need no sockets, run one after the other into the same folder; and that folder."""
    folder = tmp_path_factory.mktemp("results")
    run(folder, "CODEC")
    return run(folder, "merge"), folder


@pytest.mark.proof
@pytest.mark.skipif(bool(LOAD), reason=f"not installed: {', '.join(LOAD)}")
def test_a_node_without_clients_costs_nothing(tmp_path):
    """Less than 1 % of a core, while its neighbour on the same Redis takes all the reports it can."""
    command = [sys.executable, "-m", "benchmarks.cluster", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    idle, two = json.loads((tmp_path / "results.json").read_text())["CLUSTER"]["lines"]
    assert idle["met"], idle
    assert two["met"], two


def test_a_row_keeps_what_others_have_found(results):
    """Each can be run when there is time for it."""
    assert list(results[0]) == ["CODEC", "MERGE"]


def test_everyone_is_measured_or_named_as_missing(results):
    """No contender is left out in silence, and mdashcore never."""
    found, _ = results
    codec = found["CODEC"]["lines"][0]
    named = set(codec["samples"]) | set(codec["missing"])
    assert named == {"mdash", "msgspec alone", "pjrpc", "ajsonrpc", "jsonrpcserver", "python-lsp-jsonrpc"}
    for row in found.values():
        assert all(all(sample > 0 for sample in line["samples"]["mdash"]) for line in row["lines"])


def test_the_goal_is_judged_by_the_medians(results):
    """`met` follows from the ratio, in the direction that is better."""
    judged = [line for row in results[0].values() for line in row["lines"] if line["goal"] and line["best"]]
    assert {line["less_is_better"] for line in judged} == {True, False}
    for line in judged:
        ratio = line["medians"]["mdash"] / line["medians"][line["best"]]
        assert line["ratio"] == pytest.approx(ratio)
        assert line["met"] == (ratio <= line["goal"] if line["less_is_better"] else ratio >= line["goal"])


def test_people_get_a_table_and_a_plot(results):
    """Of all rows that were ever run there."""
    found, folder = results
    table, plot = (folder / "results.md").read_text(), ElementTree.parse(folder / "results.svg")  # noqa: S314 - our own
    texts = {text.text for text in plot.iter("{http://www.w3.org/2000/svg}text")}
    for row, kept in found.items():
        assert f"## {row} (quick" in table
        for line in kept["lines"]:
            assert f"| {line['what']} | mdash |" in table
            assert not line["best"] or f"{row}: {line['what']}" in texts


def test_the_docs_have_a_place_for_the_figures():
    """`--write-docs` replaces what stands between two marks."""
    page = (ROOT / "docs/discussion/performance.md").read_text(encoding="utf-8")
    assert page.index("<!-- figures: begin -->") < page.index("<!-- figures: end -->")


@pytest.mark.proof  # each contender's servers, one after the other; pieces and a fleet are measured in the gate
@pytest.mark.skipif(bool(LOAD), reason=f"not installed: {', '.join(LOAD)}")
def test_servers_answer_rightly_under_load(tmp_path):
    """Reports, each of which the load generator follows to the shadow and to the listener, however few they are."""
    found = run(tmp_path, "SHADOW")
    assert all(line["samples"]["mdash"] for line in found["SHADOW"]["lines"])


@pytest.mark.parametrize("name", PIECES)
def test_each_piece_can_be_measured(name):
    """A piece does the same work each time it is called."""
    piece = PIECES[name]()
    assert [piece() is not None for _ in range(3)] == [True] * 3


@pytest.mark.skipif(find_redis() is None, reason="no Redis server")
@pytest.mark.parametrize("devices", [40, pytest.param(3_000, marks=pytest.mark.proof)])
def test_a_fleet_comes_back_after_a_server_was_killed(tmp_path, devices):
    """On the servers that are left: each device is answered again, and its reports too."""
    command = [sys.executable, "-m", "benchmarks.fleet", "--devices", str(devices), "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "fleet.json").read_text())
    assert found["kill"]["lost"] == devices // found["servers"]
    assert found["kill"]["tries"] >= found["kill"]["lost"]
    assert found["reports"]["per_second"] > 0
    assert "| one server killed (kill -9) | " in (tmp_path / "fleet.md").read_text()


def test_a_fleet_for_which_the_machine_is_too_small_is_refused(monkeypatch, capsys):
    """Before anything runs, with what it needs and what there is."""
    monkeypatch.setattr(fleet, "available_memory", lambda: 2**30)
    with pytest.raises(SystemExit, match=r"needs \d+\.\d GiB of memory, and 1\.0 are free"):
        fleet.main(["--devices", "100000"])
    fleet.main(["--devices", "100000", "--needs"])
    assert capsys.readouterr().out.count("GiB of memory; about ") == 2


def test_a_fleet_has_room_on_the_servers_that_are_left():
    """With one server less there are descriptors for all devices; the load has them too."""
    for devices in (1, 500, 100_000, 1_000_000):
        for limit in (1_024, 20_000, 1_048_576):
            servers, loads = fleet.processes(devices, limit)
            room = limit - fleet.RESERVED
            assert (servers - 1) * room >= devices
            assert loads * room >= devices
            assert sum(fleet.shares(devices, servers)) == devices
