"""The metrics of several processes as those of one: each series gets the label ``worker``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

import msgspec
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

__all__ = ["WorkerMetrics", "merge", "pack"]


class WorkerMetrics(Protocol):
    """The way to the metrics of the other workers."""

    def set_collect(self, collect: Callable[[], Awaitable[bytes]]) -> None:
        """Set the function that returns the packed metrics of this worker."""

    async def gather(self) -> tuple[dict[str, bytes], dict[str, int]]:
        """Return the packed metrics and the number of starts, by worker. Workers that do not answer are left out.

        Raises:
            Overloaded: the metrics cannot be had.
        """


class _PackedFamily(msgspec.Struct, array_like=True):
    """A metric as it is sent."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: list[tuple[str, dict[str, str], float]]


_decode = msgspec.msgpack.Decoder(list[_PackedFamily]).decode


def pack(metrics: Iterable[Metric]) -> bytes:
    """Return metrics as bytes, for `merge`."""
    return msgspec.msgpack.encode(
        [
            _PackedFamily(
                each.name,
                each.documentation,
                each.type,
                each.unit,
                [(sample.name, sample.labels, float(sample.value)) for sample in each.samples],
            )
            for each in metrics
        ]
    )


def merge(packed: Mapping[str, bytes], starts: Mapping[str, int]) -> list[Metric]:
    """Return the metrics of all workers: each metric once, with the series of each worker.

    Args:
        packed: what `pack` has returned, by worker.
        starts: the number of starts by worker, also of those that did not answer.
    """
    merged: dict[str, Metric] = {}
    for worker, data in packed.items():
        for family in _decode(data):
            metric = merged.get(family.name)
            if metric is None:
                metric = merged[family.name] = Metric(family.name, family.documentation, family.type, family.unit)
            for name, labels, value in family.samples:
                metric.add_sample(name, {"worker": worker, **labels}, value)
    up = GaugeMetricFamily("mdash_worker_up", "1 if the worker has sent its metrics.", labels=["worker"])
    started = CounterMetricFamily("mdash_worker_starts", "Starts of the worker, the first too.", labels=["worker"])
    for worker, number in starts.items():
        up.add_metric([worker], worker in packed)
        started.add_metric([worker], number)
    return [*merged.values(), up, started]
