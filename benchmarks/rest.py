"""The REST API beside the two hot requests: one request of the slow lane, and a list of 5000 devices.

    python -m benchmarks.rest [--long]

The cost is the processor time of the server. While lists are read one after the other, another client reads a shadow
again and again: its 95th percentile says whether a long list makes others wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import quantiles

from benchmarks._api import Api
from benchmarks._figures import OURS, Form, Line, in_turns
from benchmarks._machine import LOAD_CORE, on_core
from benchmarks._targets import STORES, Running, busy, load, mdash

ROW = "REST"
LISTED = 5_000  # devices of a list; fewer in a quick form
REQUESTS = 200  # of the slow lane, in a turn
MOST_CPU = 500.0  # microseconds of a request in the slow lane
MOST_WAIT = 20.0  # milliseconds that the 95th of a hundred others waits during a list
PAUSE = 0.005  # seconds between two requests of the other client


def slow_request(server: Running, api: Api) -> float:
    """Return the microseconds of processor time for `GET /devices/:id`, which goes through Quart."""

    def work() -> None:
        for _ in range(REQUESTS):
            api.device("d0")

    return 1e6 * busy(server, work)[2] / REQUESTS


def one_list(server: Running, api: Api, devices: int) -> float:
    """Return the milliseconds of processor time for a list of all devices."""

    def work() -> None:
        assert len(api.device("")) == devices

    return 1e3 * busy(server, work)[2]


def bystander(server: Running, api: Api, seconds: float) -> float:
    """Return the 95th percentile, in milliseconds, of reading a shadow while lists are read."""
    with load("lists") as lists:
        assert lists.ask(server.to_load())["devices"] == len(server.devices)
        lists.write({"seconds": seconds})
        times = []
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            api.shadow("d0")
            times.append(1e3 * (time.perf_counter() - start))
            time.sleep(PAUSE)
        assert lists.read()["lists"] > 0
    return quantiles(times, n=20)[-1] if len(times) > 1 else times[0]


def served(form: Form, store: str) -> list[Line]:
    """Measure mdash alone on a store."""
    devices = min(LISTED, 5 * form.devices)
    with ExitStack() as stack:
        stack.enter_context(on_core(LOAD_CORE))
        server = stack.enter_context(mdash(store).open(devices))
        api = Api(server.port, server.key)
        stack.callback(api.close)
        api.update("d0", {"state": {"desired": {"on": True}}})
        measures: list[tuple[str, str, float | None, Callable[[], float]]] = [
            ("a request in the slow lane", "µs", MOST_CPU, partial(slow_request, server, api)),
            (f"a list of {devices} devices", "ms", None, partial(one_list, server, api, devices)),
            ("95th percentile of others during lists", "ms", MOST_WAIT, partial(bystander, server, api, form.seconds)),
        ]
        return [
            Line(
                ROW,
                f"{what}, {store}",
                unit,
                in_turns(form.turns, {OURS: measure}),
                less_is_better=True,
                most=most,
            )
            for what, unit, most, measure in measures
        ]


def run(form: Form) -> list[Line]:
    """Measure on every store, in the quick form not on Redis."""
    return [line for store in form.stores_of(STORES) for line in served(form, store)]


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)
