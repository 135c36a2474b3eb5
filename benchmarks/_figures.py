"""Measurements: samples of all contenders, taken in turns in one run, and their judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import attrs

__all__ = ["OURS", "Form", "Line", "in_turns"]

OURS = "mdash"


@attrs.frozen
class Form:
    """The length of a measurement."""

    name: str
    turns: int
    """Turns of each contender."""
    seconds: float
    """Seconds of each turn."""
    devices: int
    """Connected devices, in comparisons with many."""
    sizes: tuple[int, ...]
    """Bytes of the documents that are merged."""
    subscribers: tuple[int, ...]

    def stores_of(self, stores: Sequence[str]) -> Sequence[str]:
        """Return the stores of a row that takes minutes on each: the first two in the quick form, else all of them."""
        return stores[:2] if self.name == "quick" else stores

    @classmethod
    def named(cls, name: str) -> Form:
        """Return a form: ``quick`` only shows that it works, ``short`` is for a look, ``long`` is the real one."""
        return {
            "quick": cls("quick", 1, 0.1, 20, (1_000,), (5,)),
            "short": cls("short", 3, 0.8, 1_000, (1_000, 32_000), (100, 1_000)),
            "long": cls("long", 9, 8.0, 10_000, (1_000, 32_000, 1_000_000), (100, 1_000)),
        }[name]


@attrs.define
class Line:
    """One comparison.

    The ratio is that of mdash to the best peer: above 1 is better if more is better, below 1 if less is better.
    """

    row: str
    what: str
    unit: str
    samples: dict[str, list[float]]
    """The samples of each turn, by contender. `OURS` is one of them."""
    less_is_better: bool = False
    goal: float | None = None
    """The smallest, or largest, ratio that is wanted."""
    most: float | None = None
    """The largest figure of mdash that is wanted, whatever that of others is."""
    reference: tuple[str, ...] = ()
    """Contenders that are shown, but are no peers."""
    busy: dict[str, float] = attrs.field(factory=dict)
    """The share of its core that each server used. Well below 1 the server was not the bottleneck."""
    missing: dict[str, str] = attrs.field(factory=dict)
    """The contenders that could not take part, and why."""

    def median(self, name: str) -> float:
        return median(self.samples[name])

    def spread(self, name: str) -> float:
        """Return the difference of the largest and the smallest sample, as a share of the median."""
        values = self.samples[name]
        return (max(values) - min(values)) / self.median(name) if self.median(name) else 0.0

    @property
    def peers(self) -> list[str]:
        """The contenders that mdash is compared with."""
        return [name for name in self.samples if name != OURS and name not in self.reference]

    @property
    def best(self) -> str | None:
        """The best peer; `None` if there is none."""
        if OURS not in self.samples or not self.peers:
            return None
        return (min if self.less_is_better else max)(self.peers, key=self.median)

    @property
    def ratio(self) -> float | None:
        """The ratio of mdash to the best peer."""
        return None if self.best is None or not self.median(self.best) else self.median(OURS) / self.median(self.best)

    @property
    def ratios(self) -> tuple[float, float] | None:
        """The smallest and the largest ratio of one turn."""
        if self.best is None:
            return None
        pairs = zip(self.samples[OURS], self.samples[self.best], strict=False)
        found = [ours / theirs for ours, theirs in pairs if theirs]
        return (min(found), max(found)) if found else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; `None` without a goal or a peer."""
        if self.most is not None and OURS in self.samples:
            return self.median(OURS) <= self.most
        if self.goal is None or self.ratio is None:
            return None
        return self.ratio <= self.goal if self.less_is_better else self.ratio >= self.goal

    def beside(self, name: str, goal: float) -> Line:
        """Return the comparison with a reference alone, which has a goal of its own."""
        samples = {each: self.samples[each] for each in (OURS, name) if each in self.samples}
        return Line(self.row, f"{self.what}: {name}", self.unit, samples, self.less_is_better, goal)

    def to_json(self) -> dict[str, Any]:
        """Return the line with all derived values, for readers of the file."""
        medians = {name: self.median(name) for name in self.samples}
        derived = {"medians": medians, "best": self.best, "ratio": self.ratio, "ratios": self.ratios, "met": self.met}
        return attrs.asdict(self) | derived

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Line:
        fields = {field.name: value[field.name] for field in attrs.fields(cls) if field.name in value}
        return cls(**fields | {"reference": tuple(value.get("reference", ()))})


def in_turns(
    turns: int, work: Mapping[str, Callable[[], float]], *, single: Iterable[str] = ()
) -> dict[str, list[float]]:
    """Return samples of each contender, in turns A B C, A B C, so that a slow machine slows them all.

    Args:
        single: contenders that are measured only once.
    """
    samples: dict[str, list[float]] = {name: [] for name in work}
    once = set(single)
    for turn in range(turns):
        for name, measure in work.items():
            if turn == 0 or name not in once:
                samples[name].append(measure())
    return samples
