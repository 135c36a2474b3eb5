"""The messages between the parent and a worker, and the channel that carries them."""

from __future__ import annotations

from contextlib import suppress
from typing import Final, TypeAlias

import msgspec
import trio

__all__ = [
    "Alive",
    "AllMetrics",
    "Channel",
    "GetMetrics",
    "PackedMetrics",
    "Ready",
    "Stopping",
    "Task",
    "WantMetrics",
    "WorkerMessage",
]

MAX_MESSAGE: Final = 2**26  # bytes: the metrics of 128 workers take 10 MB

MAX_UNSENT: Final = 64  # messages that wait for the other end: more means that it does not read, and it loses them

_HEAD_SIZE: Final = 4  # bytes of a message's length in front of it


class Task(msgspec.Struct, frozen=True, tag=True):
    """To a worker, first of all: what to do."""

    pickled: bytes
    """A `WorkerTask`, pickled by the same program."""


class GetMetrics(msgspec.Struct, frozen=True, tag=True):
    """To a worker: send your metrics. The answer is `PackedMetrics`."""

    id: int


class AllMetrics(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the metrics of the workers that have sent theirs in time, and how often each worker was started."""

    packed: dict[str, bytes]
    starts: dict[str, int]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """To the parent: the worker accepts connections, or has reloaded its certificate."""

    url: str
    metrics_url: str | None


class Alive(msgspec.Struct, frozen=True, tag=True):
    """To the parent: the loop of the worker turns."""

    store_answers: bool


class Stopping(msgspec.Struct, frozen=True, tag=True):
    """To the parent: the worker is going down."""


class WantMetrics(msgspec.Struct, frozen=True, tag=True):
    """To the parent: send the metrics of all workers. The answer is `AllMetrics`."""


class PackedMetrics(msgspec.Struct, frozen=True, tag=True):
    """To the parent: the metrics of the worker."""

    id: int
    """That of `GetMetrics`."""
    packed: bytes


WorkerMessage: TypeAlias = Task | GetMetrics | AllMetrics | Ready | Alive | Stopping | WantMetrics | PackedMetrics


class Channel:
    """One end of a pair of sockets, for messages in both directions."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unsent, self._outlet = trio.open_memory_channel[WorkerMessage](MAX_UNSENT)
        self._received = bytearray()
        self._decoder = msgspec.msgpack.Decoder(WorkerMessage)

    def send(self, message: WorkerMessage) -> None:
        """Queue a message for `write`. Never waits."""
        with suppress(trio.WouldBlock):
            self._unsent.send_nowait(message)

    async def write(self) -> None:
        """Write the queued messages until cancelled, or until the other end has gone."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for message in self._outlet:
                data = msgspec.msgpack.encode(message)
                await self._stream.send_all(len(data).to_bytes(_HEAD_SIZE, "big") + data)

    async def receive(self) -> WorkerMessage | None:
        """Return the next message; `None` if the other end has gone."""
        if (head := await self._read(_HEAD_SIZE)) is None:
            return None
        size = int.from_bytes(head, "big")
        data = await self._read(size) if size <= MAX_MESSAGE else None
        return None if data is None else self._decoder.decode(data)

    async def _read(self, size: int) -> bytes | None:
        while len(self._received) < size:
            try:
                piece = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not piece:
                return None
            self._received += piece
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    async def aclose(self) -> None:
        """Close this end."""
        await self._stream.aclose()
