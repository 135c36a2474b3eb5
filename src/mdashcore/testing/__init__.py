"""Tools for tests of software that is built on mdashcore. A service does not need this package.

* `ConnectionPair`: two connections back to back, without a transport.
* `BackendSuite`: the whole contract of a storage backend as tests, to be adopted by subclassing; or one part of
  it, for one of the four stores (with the extra ``testing``).
* `mdashcore.testing.device`: a scripted device on a real WebSocket (with the extra ``agent``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mdashcore.testing._pair import ConnectionPair

if TYPE_CHECKING:
    from mdashcore.testing.suites import (
        AtomicStepSuite,
        BackendSuite,
        BlobStoreSuite,
        DocumentStoreSuite,
        LogStoreSuite,
        MessageBusSuite,
        StorageSuite,
    )

__all__ = [
    "AtomicStepSuite",
    "BackendSuite",
    "BlobStoreSuite",
    "ConnectionPair",
    "DocumentStoreSuite",
    "LogStoreSuite",
    "MessageBusSuite",
    "StorageSuite",
]


def __getattr__(name: str) -> Any:
    """Import the suites when they are used: they need hypothesis, and a `ConnectionPair` does not."""
    if name in __all__:
        from mdashcore.testing import suites

        return getattr(suites, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
