"""The pieces of a report's way, each alone, in the processor's time of one process; and the times to import.

    python -m benchmarks.pieces [--against TREE] [PIECE…]

With `--against`, another checkout of this project takes turns with this one, A B A B, and each piece is shown with the
ratio of the two: that of the medians, and the middle half of the ratios of single turns. Only these ratios mean
something on a machine that has other work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

HERE = Path(__file__).resolve().parent.parent
TURNS = 60  # short ones: other work on the machine comes and goes, and should meet both checkouts
SECONDS = 0.02  # of processor time in a turn
START_TURNS = 10  # of a process, which takes longer
STARTS = {
    "import mdashcore": ["-c", "import mdashcore"],
    "import all of it": ["-c", "from mdashcore import *"],
    "mdash --help": ["-m", "mdashcore", "--help"],
}
"""Pieces that are processes of their own."""

SIZE = 1_000  # bytes of a section, as in the row SHADOW
LEAF = 24  # bytes of a leaf with its share of the objects above it

Piece = Callable[[], object]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("it waits")


def state(n: int) -> bytes:
    """Return what a device reports the n-th time. Every other report leaves a delta."""
    return b'{"reported":{"n":%d,"on":%b,"temperature":%d.5}}' % (n, b"false" if n % 2 else b"true", n % 40)


def document() -> Any:
    """Return the update with which a shadow begins."""
    from benchmarks.shadow import tree

    base: Any = tree(SIZE // LEAF, "a value of it")
    return {"state": {section: base | {"on": True} for section in ("desired", "reported")}}


def counted(function: Callable[[int], object]) -> Piece:
    """Return a function that calls another with 1, 2, 3, …"""
    n = 0

    def piece() -> object:
        nonlocal n
        n += 1
        return function(n)

    return piece


def looked_at() -> Piece:
    """The same while the account has a summary, because its list or its home is looked at."""
    return report(is_looked_at=True)


def report(*, is_looked_at: bool = False) -> Piece:
    """A report as the hub handles it: from a frame to the frames for the device and for a subscriber."""
    from mdash_backends.memory import open_memory
    from mdashcore import Connection, RequestReceived
    from mdashcore.hub import DeviceKey, DeviceSession, Hub, HubObserver
    from mdashcore.storage import Backend

    opened: AbstractAsyncContextManager[Backend] = open_memory("memory://")
    hub = Hub(run(opened.__aenter__()), now=time.time, monotonic=time.monotonic, entropy=os.urandom)  # type: ignore[arg-type]
    key = DeviceKey("account", "device")
    run(hub.create_device(key.account, key.id))
    run(hub.shadows.update(key, document()))
    if is_looked_at:
        run(hub.summaries.of(key.account))
    connection, session = Connection(), DeviceSession(hub, key)
    deltas: list[Any] = []

    class Observer(HubObserver):
        def shadow_changed(self, key: DeviceKey, change: Any) -> None:
            deltas.append(change.delta_document())

    hub.add_observer(Observer())

    def one(n: int) -> object:
        params = b'{"state":%b}' % state(n)
        connection.receive_data(b'{"id":%d,"method":"Dash.Shadow.Update","params":%b}' % (n, params))
        for event in connection.events():
            assert isinstance(event, RequestReceived)
            run(session.handle(event, connection))
        deltas.clear()
        return connection.data_to_send()

    frames: Any = one(1)
    assert b'"version":2' in frames[0], frames
    return counted(lambda n: one(n + 1))


def connection() -> Piece:
    """A request in, and an answer out."""
    from mdashcore import Connection, RequestReceived

    peer = Connection()

    def one(n: int) -> object:
        peer.receive_data(b'{"id":%d,"method":"Dash.Shadow.Update","params":{"state":%b}}' % (n, state(n)))
        for event in peer.events():
            assert isinstance(event, RequestReceived)
            peer.reply(event.ref, b'{"version":1}')
        return peer.data_to_send()

    return counted(one)


def shadow_update() -> Piece:
    """`Shadow.update` alone."""
    from mdashcore import Shadow

    shadow, _ = Shadow().update(document(), now=1.0)
    updates: list[Any] = [
        {"state": {"reported": {"n": n, "on": not n % 2, "temperature": n % 40 + 0.5}}} for n in range(2)
    ]

    def one(n: int) -> object:
        nonlocal shadow
        shadow, change = shadow.update(updates[n % 2], now=2.0)
        return change

    return counted(one)


def stored_form() -> Piece:
    """The stored form of a shadow, encoded."""
    from mdashcore import Shadow
    from mdashcore.hub.records import schema
    from mdashcore.hub.records.store import Records

    shadow, _ = Shadow().update(document(), now=1.0)
    records: Any = Records(None, schema.SHADOWS)  # type: ignore[arg-type]
    return lambda: records.encode(shadow)


def accepted() -> Piece:
    """The answer to an update, encoded."""
    from mdashcore import Connection, Shadow

    shadow, _ = Shadow().update(document(), now=1.0)
    _, change = shadow.update({"state": {"reported": {"n": 1, "on": False, "temperature": 1.5}}}, now=2.0)
    answer = getattr(change, "accepted_json", change.accepted_document)  # older checkouts have the second only
    peer = Connection()

    def one(n: int) -> object:
        peer.receive_data(b'{"id":1,"method":"m"}')
        peer.reply(n, answer())
        peer.events()
        return peer.data_to_send()

    return counted(one)


def codec() -> Piece:
    """The row CODEC."""
    from benchmarks.codec import REQUEST, ours

    answer = ours()
    return lambda: answer(REQUEST)


PIECES = {
    "report": report,
    "report, looked at": looked_at,
    "connection": connection,
    "shadow update": shadow_update,
    "stored form": stored_form,
    "answer": accepted,
    "codec": codec,
}


def serve() -> None:
    """Measure the pieces that stdin names, one a line: microseconds for each."""
    ready: dict[str, Piece] = {}
    for line in sys.stdin:
        name = json.loads(line)
        piece = ready.get(name)
        if piece is None:
            piece = ready[name] = PIECES[name]()
            for _ in range(300):
                piece()
        done, start = 0, time.process_time()
        while (now := time.process_time()) < start + SECONDS:
            for _ in range(20):
                piece()
            done += 20
        print((now - start) / done * 1e6, flush=True)


class Tree:
    """A checkout of the project, with a process that measures."""

    def __init__(self, path: Path) -> None:
        self._environment = os.environ | {"PYTHONPATH": f"{path / 'src'}:{HERE}"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.pieces", "--serve"],
            cwd=HERE,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, name: str) -> float:
        """Return microseconds of a piece."""
        if name in STARTS:
            return self._start(STARTS[name])
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(name), file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def _start(self, arguments: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *arguments], cwd=HERE, env=self._environment, stdout=subprocess.DEVNULL, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1e6 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=", ".join([*PIECES, *STARTS]))
    parser.add_argument("--against", type=Path, help="another checkout, which is measured in turns with this one")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    trees = [Tree(path.resolve()) for path in (HERE, arguments.against) if path is not None]
    print("microseconds of processor time, and the ratio to the other checkout (middle half of the turns)")
    for name in arguments.pieces or [*PIECES, *STARTS]:
        turns = START_TURNS if name in STARTS else TURNS
        samples = [[tree.measure(name) for tree in trees] for _ in range(turns)]
        medians = [median(column) for column in zip(*samples, strict=True)]
        line = f"{name:18}" + "".join(f"{each:12,.2f}" for each in medians)
        if len(trees) == 2:
            low, _, high = quantiles(ours / theirs for ours, theirs in samples)
            line += f"   {medians[0] / medians[1]:.2f} ({low:.2f} to {high:.2f})"
        print(line, flush=True)
    for tree in trees:
        tree.close()


if __name__ == "__main__":
    main()
