"""The conformance suites, and all of them in one."""

from __future__ import annotations

from mdashcore.testing._suite import StorageSuite
from mdashcore.testing.atomic import AtomicStepSuite
from mdashcore.testing.blobs import BlobStoreSuite
from mdashcore.testing.bus import MessageBusSuite
from mdashcore.testing.documents import DocumentStoreSuite
from mdashcore.testing.logs import LogStoreSuite

__all__ = [
    "AtomicStepSuite",
    "BackendSuite",
    "BlobStoreSuite",
    "DocumentStoreSuite",
    "LogStoreSuite",
    "MessageBusSuite",
    "StorageSuite",
]


class BackendSuite(DocumentStoreSuite, LogStoreSuite, AtomicStepSuite, BlobStoreSuite, MessageBusSuite):
    """All suites, for a backend that has all four stores.

    ::

        class TestMyBackend(BackendSuite):
            def open(self, name):
                return open_my_backend(f"my://{FOLDER}/{name}")
    """
