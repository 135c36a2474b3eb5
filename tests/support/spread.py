"""The order in which workers take the tests, so that at the end none is left alone with long ones.

pytest-xdist (``--dist worksteal``) gives each worker an equal part of the list, in its order. A worker that has ended
its own takes half of what the longest part has left, from its end.
"""

from __future__ import annotations

from collections.abc import Sequence

QUICK = ("core", "hub")
"""Folders whose tests take milliseconds, and start and wait for nothing: with them each part ends."""


def spread(folders: Sequence[str], workers: int) -> list[int]:
    """Give each worker a share of each folder, and the quick ones last.

    Each begins with another folder: what waits for browsers or processes runs beside what computes. Tests of one
    module stay together, as they share servers.

    Args:
        folders: the folder of each test, in the order of collection.

    Returns:
        The indices of the tests in their new order; in the old one if there are too few quick tests.
    """
    of: dict[str, list[int]] = {}
    for index, folder in enumerate(folders):
        of.setdefault(folder, []).append(index)
    quick = [index for folder in QUICK for index in of.pop(folder, [])]
    slow = list(of.values())
    order: list[int] = []
    left = len(folders)
    for worker in range(workers):
        size = left // (workers - worker)  # as pytest-xdist has it
        first = worker * len(slow) // workers
        part: list[int] = []
        for tests in slow[first:] + slow[:first]:
            part += tests[len(tests) * worker // workers : len(tests) * (worker + 1) // workers]
        if not size - len(quick) <= len(part) <= size:
            return list(range(len(folders)))
        fill, quick = quick[: size - len(part)], quick[size - len(part) :]
        order += part + fill
        left -= size
    return order
