"""All metrics of a server, and where each comes from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import attrs
import trio
from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.registry import Collector

from mdashcore import __version__
from mdashcore._errors import NotFound, VersionConflict
from mdashcore.hub import HubObserver
from mdashcore.hub.feed import FeedItem
from mdashcore.hub.limits import AccountLimits
from mdashcore.identity import DeviceKey
from mdashcore.ota import UpdateState
from mdashcore.server import traffic
from mdashcore.server.asgi import App
from mdashcore.server.auth.login_log import LOGGER
from mdashcore.server.metrics.app import MetricsRoute, only_probes
from mdashcore.server.metrics.measured_calls import CALL_OUTCOMES, MeasuredCalls
from mdashcore.server.metrics.measured_store import Measure, measure_backend
from mdashcore.server.metrics.merging import WorkerMetrics, merge, pack
from mdashcore.server.service import Service
from mdashcore.shadow import Change
from mdashcore.storage import Backend
from mdashcore.trio.turns import Pace, waiting_tasks

__all__ = ["Metrics"]

CALL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
"""Seconds: from a device in the same room to the longest time-out of a call."""

STORE_BUCKETS: Final = (
    *(0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
"""Seconds: from a store in memory to one that is about to fail."""

LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

LAG_INTERVAL: Final = 1.0  # seconds between two looks at the loop: a scrape has some, and they cost nothing

NOTIFICATIONS: Final = (
    "online",
    "offline",
    "created",
    "deleted",
    "updated",
    "rpc.in",
    "rpc.out",
    "ota",
    "rollout",
    "job",
)
"""The kinds of notifications that are counted by name; all others count as ``other``."""

_BOUNDS: Final = (*(field.name for field in attrs.fields(AccountLimits)), "memory", "rate", "shutdown")

_STATES: Final = {b"ota." + state.value.encode(): state.value for state in UpdateState}

_END: Final = b"# EOF\n"
"""The end of a text in OpenMetrics."""

_NAME: Final = len(b'{"name":"')


class Metrics:
    """The metrics of one server.

    It measures a service while the context of `watching` lasts, and the verbs of the store from `measure` on.

    Args:
        workers: the way to the metrics of the other processes, if several serve the port: all are shown together.
    """

    def __init__(self, workers: WorkerMetrics | None = None) -> None:
        self._workers = workers
        if workers is not None:
            workers.set_collect(self._packed)
        self.registry: CollectorRegistry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        calls = Counter("mdash_calls", "Calls of devices by users, by outcome.", ["outcome"], registry=self.registry)
        self._calls = {outcome: calls.labels(outcome) for outcome in CALL_OUTCOMES}
        self._call_seconds = Histogram(
            "mdash_call_duration_seconds",
            "Time until a device has answered a call of a user.",
            buckets=CALL_BUCKETS,
            registry=self.registry,
        )
        self._store_seconds = Histogram(
            "mdash_store_duration_seconds",
            "Time of a verb of the store, without scans and the storing of blobs.",
            ["store", "verb"],
            buckets=STORE_BUCKETS,
            registry=self.registry,
        )
        self._store_errors = Counter(
            "mdash_store_errors", "Failures of verbs of the store.", ["store", "verb"], registry=self.registry
        )
        self._store_conflicts = Counter(
            "mdash_store_conflicts", "Writes that another writer of the document was ahead of.", registry=self.registry
        )
        self._lag = Histogram(
            "mdash_loop_lag_seconds",
            "Delay of a task that was due: how long all requests and devices wait for their turn.",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )
        self._log = _LogCounter(self.registry)
        self._observer = _Observer(self.registry)

    def measure(self, backend: Backend) -> Backend:
        """Return a backend that works as the given one, and measures its verbs."""
        return measure_backend(backend, self._verb)

    def _verb(self, store: str, verb: str) -> Measure:
        errors = self._store_errors.labels(store, verb)
        duration: Histogram | None = None  # a store has verbs that are not used, or not timed

        def record(seconds: float | None, error: Exception | None) -> None:
            nonlocal duration
            if seconds is not None:
                if duration is None:
                    duration = self._store_seconds.labels(store, verb)
                duration.observe(seconds)
            if isinstance(error, VersionConflict):
                self._store_conflicts.inc()
            elif error is not None and not isinstance(error, NotFound):
                errors.inc()

        return record

    @contextmanager
    def watching(self, service: Service, http_connections: Callable[[], int]) -> Iterator[None]:
        """Measure a service as long as the context lasts.

        Args:
            http_connections: returns the number of open connections that are no WebSockets.
        """
        node = service.node
        node.hub.add_observer(self._observer)
        node.user_calls = MeasuredCalls(node.user_calls, self._record_call)
        node.background.run_for_ever("the watching of the loop", self._watch_loop)
        self.registry.register(_Present(service, http_connections))
        logging.getLogger().addHandler(self._log)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(self._log)
            node.hub.remove_observer(self._observer)

    def app(self, token: str | None, app: App, *, only_probes_of_app: bool = False) -> App:
        """Return an app that answers ``GET /metrics`` in front of another.

        Args:
            token: as for `MetricsRoute`.
            only_probes_of_app: whether the other app only says how healthy the server is.
        """
        return MetricsRoute(only_probes(app) if only_probes_of_app else app, self._text, token)

    def _record_call(self, seconds: float, outcome: str) -> None:
        self._calls[outcome].inc()
        if outcome in ("ok", "error"):
            self._call_seconds.observe(seconds)

    async def _watch_loop(self) -> None:
        while True:
            due = trio.current_time() + LAG_INTERVAL
            await trio.sleep_until(due)
            self._lag.observe(max(0.0, trio.current_time() - due))

    async def _text(self, open_metrics: bool) -> bytes:
        """Return all metrics in one of the two formats. Others have their turn in between."""
        generate: Callable[[Any], bytes] = generate_open_metrics if open_metrics else generate_latest
        metrics = self.registry.collect() if self._workers is None else merge(*await self._workers.gather())
        pace, text = Pace(self), bytearray()
        for metric in metrics:
            text += generate(_One(metric)).removesuffix(_END)
            await pace()
        return bytes(text + _END if open_metrics else text)

    async def _packed(self) -> bytes:
        """Return all metrics for another process."""
        pace, found = Pace(self), []
        for metric in self.registry.collect():
            found.append(metric)
            await pace()
        return pack(found)


class _One(Collector):
    """One metric, without the times at which its series began: they would double the number of series."""

    def __init__(self, metric: Metric) -> None:
        metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        """Yield the metric."""
        yield self._metric


class _Observer(HubObserver):
    """Counts what the hub has stored in this process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        notifications = Counter("mdash_notifications", "Notifications by kind.", ["kind"], registry=registry)
        updates = Counter("mdash_updates", "Firmware updates that have reached a state.", ["state"], registry=registry)
        shadows = Counter(
            "mdash_shadow_updates", "Updates of shadows: reports of devices, and wishes for them.", ["section"],
            registry=registry,
        )  # fmt: skip
        self._kinds = {kind.encode(): notifications.labels(kind) for kind in NOTIFICATIONS}
        self._other = notifications.labels("other")
        self._states = {name: updates.labels(state) for name, state in _STATES.items()}
        self._sections = {section: shadows.labels(section) for section in ("reported", "desired")}

    def shadow_changed(self, key: DeviceKey, change: Change) -> None:
        sections = self._sections if change.state is None else change.state
        for section in sections:
            if (counter := self._sections.get(section)) is not None:
                counter.inc()

    def notified(self, account: str, item: FeedItem) -> None:
        name = item.frame[_NAME : item.frame.index(b'"', _NAME)]
        if (state := self._states.get(name)) is not None:
            state.inc()
        kind = name.partition(b".")[0]
        if kind == b"rpc":
            kind = name[:7].rstrip(b".")
        self._kinds.get(kind, self._other).inc()


class _LogCounter(logging.Handler):
    """Counts the lines of the log, and among them those of logins that have failed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._lines = Counter("mdash_log_lines", "Lines of the log.", ["level"], registry=registry)
        self._logins = Counter("mdash_failed_logins", "Lines about failed logins.", ["event"], registry=registry)
        for level in ("debug", "info", "warning", "error", "critical"):
            self._lines.labels(level)
        for event in ("failed", "locked", "closed"):
            self._logins.labels(event)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.labels(logging.getLevelName(record.levelno - record.levelno % 10).lower()).inc()
        if record.name == LOGGER:
            for event in ("failed", "locked", "closed"):
                if str(record.msg).startswith(f"login {event}:"):
                    self._logins.labels(event).inc()


class _Present(Collector):
    """What there is at the moment at which metrics are read."""

    def __init__(self, service: Service, http_connections: Callable[[], int]) -> None:
        self._service = service
        self._http_connections = http_connections

    def describe(self) -> Iterable[Metric]:
        """Name no metrics: the registry need not look for clashes."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        node = self._service.node
        info = GaugeMetricFamily("mdash_info", "The version of the server; 1.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        connections = GaugeMetricFamily("mdash_connections", "Open connections by kind.", labels=["kind"])
        for kind, number in (
            ("device", len(node.devices)),
            ("subscriber", len(node.subscribers)),
            ("http", self._http_connections()),
        ):
            connections.add_metric([kind], number)
        yield connections
        outboxes = GaugeMetricFamily("mdash_outbox_bytes", "Bytes that wait for slow peers.", labels=["peer"])
        outboxes.add_metric(["device"], sum(each.link.connection.size_to_send for each in node.devices.values()))
        outboxes.add_metric(["server"], 0 if node.others.inbox is None else node.others.inbox.peers.size_to_send)
        yield outboxes
        for name, words, value in self._numbers():
            yield GaugeMetricFamily(name, words, value)
        yield _counts("mdash_http_responses", "Answers to requests and handshakes.", "status", traffic.responses)
        refusals = {**dict.fromkeys(_BOUNDS, 0), **traffic.refusals}
        yield _counts("mdash_refusals", "Requests that were refused because of a bound.", "limit", refusals)

    def _numbers(self) -> Iterator[tuple[str, str, float]]:
        service, node = self._service, self._service.node
        membership = node.others.membership
        queued = sum(subscriber.queued for subscriber in node.subscribers)
        yield "mdash_subscriber_queue_length", "Notifications in memory that wait for slow subscribers.", queued
        yield "mdash_turn_queue_length", "Tasks with long work that wait for their turn.", waiting_tasks()
        writers = node.hub.shadows.waiting_writers
        yield "mdash_writer_queue_length", "Updates that wait for another update of the same shadow.", writers
        yield "mdash_login_queue_length", "Logins that wait for the check of a password.", service.passwords.waiting
        yield "mdash_request_body_bytes", "Bytes of request bodies in memory.", service.bodies.size
        yield "mdash_uploads", "Images that are being uploaded.", len(service.uploads)
        yield "mdash_downloads", "Images that are being downloaded.", len(service.downloads)
        yield "mdash_lists", "Long lists that are being answered.", len(service.lists)
        yield "mdash_running_updates", "Firmware updates that this server drives.", len(node.update_supervisor)
        nodes = 1 if membership is None else len(membership.known)
        yield "mdash_cluster_nodes", "Servers on the store, this one included, that are alive.", nodes
        member = membership is None or not membership.is_lost
        yield "mdash_cluster_member", "1 if the other servers on the store know this one.", member


def _counts(name: str, words: str, label: str, counts: dict[Any, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, words, labels=[label])
    for value, number in sorted(counts.items()):
        family.add_metric([str(value)], number)
    return family
