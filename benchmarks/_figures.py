"""What was measured, and whether that is enough: samples of all who took part, taken in turns in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Any

import attrs

__all__ = ["OURS", "Form", "Line", "in_turns"]

OURS = "mdash"


@attrs.frozen
class Form:
    """How long to measure."""

    name: str
    turns: int
    """Of each who takes part."""
    seconds: float
    """Of each turn."""
    devices: int
    """Connected devices, where there are many."""
    sizes: tuple[int, ...]
    """Bytes of the documents that are merged."""
    subscribers: tuple[int, ...]

    @classmethod
    def named(cls, name: str) -> Form:
        """``quick`` only shows that it works, ``short`` is for a look, ``long`` is the real one."""
        return {
            "quick": cls("quick", 1, 0.1, 20, (1_000,), (5,)),
            "short": cls("short", 3, 0.8, 1_000, (1_000, 32_000), (100, 1_000)),
            "long": cls("long", 9, 8.0, 10_000, (1_000, 32_000, 1_000_000), (100, 1_000)),
        }[name]


@attrs.define
class Line:
    """One comparison.

    The ratio is ours to that of the best of those it is held against: above 1 is better where more is better, below 1
    where less is.
    """

    row: str
    what: str
    unit: str
    samples: dict[str, list[float]]
    """Of each turn, by who took part; `OURS` is one of them."""
    less_is_better: bool = False
    goal: float | None = None
    """What the ratio has to be at least, or at most."""
    reference: tuple[str, ...] = ()
    """Those that are shown, and not held against us."""
    busy: dict[str, float] = attrs.field(factory=dict)
    """The part of its core that each server used: well below 1 it was not the server that was measured."""
    missing: dict[str, str] = attrs.field(factory=dict)
    """Who could not take part, and why."""

    def median(self, name: str) -> float:
        return median(self.samples[name])

    def spread(self, name: str) -> float:
        """Between the smallest and the largest sample, as a part of the median."""
        values = self.samples[name]
        return (max(values) - min(values)) / self.median(name) if self.median(name) else 0.0

    @property
    def peers(self) -> list[str]:
        """Those that we are held against."""
        return [name for name in self.samples if name != OURS and name not in self.reference]

    @property
    def best(self) -> str | None:
        """The best peer; None where there is none."""
        if OURS not in self.samples or not self.peers:
            return None
        return (min if self.less_is_better else max)(self.peers, key=self.median)

    @property
    def ratio(self) -> float | None:
        """Ours to the best peer's."""
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
        """Whether the goal is; None where there is none, or nobody to compare with."""
        if self.goal is None or self.ratio is None:
            return None
        return self.ratio <= self.goal if self.less_is_better else self.ratio >= self.goal

    def to_json(self) -> dict[str, Any]:
        """With what follows from it, for those who read the file."""
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
    """Samples of each, in turns A B C, A B C: what slows the machine meanwhile slows them all.

    Args:
        single: those that are asked once only.
    """
    samples: dict[str, list[float]] = {name: [] for name in work}
    once = set(single)
    for turn in range(turns):
        for name, measure in work.items():
            if turn == 0 or name not in once:
                samples[name].append(measure())
    return samples
