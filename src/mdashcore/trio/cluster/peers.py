"""The peers of a node, with which it shares a store: JSON-RPC over the bus, one `Link` per peer.

A message on the bus is ``SENDER SP FRAME``. Frames to one node go to a topic of that node, frames to all nodes to one
that all subscribe to. The bus may lose any of them: a call then times out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import attrs
import trio

from mdashcore import _json, jsonrpc
from mdashcore._connection import Connection
from mdashcore._connection_limits import ConnectionLimits
from mdashcore._errors import (
    STATUS,
    Busy,
    CallTimeout,
    DeviceOffline,
    InvalidAnswer,
    InvalidInput,
    MdashError,
    NotFound,
    RpcError,
    StorageError,
    TooLarge,
    status_of,
)
from mdashcore._events import NotificationReceived, RequestReceived
from mdashcore.jsonrpc import Request
from mdashcore.storage import MessageBus
from mdashcore.trio.background import Background
from mdashcore.trio.connections.link import GOING_AWAY, Link, PeerEvent

__all__ = ["PeerHandler", "Peers"]

BROADCAST_TOPIC: Final = "nodes"

MAX_INBOX: Final = 4096  # frames of one peer that wait to be read; later ones are lost, as the bus may do

MAX_IDLE_PEERS: Final = 256  # links that are kept without any work: a late frame of a gone node makes a new link. Links
# with work are as many as their calls, which have bounds of their own

ENVELOPE_SIZE: Final = 2**10  # bytes around an answer that is passed on: real ones have under 100

PEER_LIMITS: Final = ConnectionLimits(
    max_frame=2**18,  # the largest frame of a device, in an envelope
    max_calls=4096,  # all users' calls to all devices of a peer at the same time
    max_requests=4096,
    max_outbox=2**24,
)

_ERRORS: Final[dict[int, type[MdashError]]] = {
    STATUS[error]: error
    for error in (InvalidInput, NotFound, TooLarge, Busy, InvalidAnswer, DeviceOffline, CallTimeout)
}
"""By the code of a peer's error: the error that the peer has raised, to be raised here too."""


class PeerHandler(Protocol):
    """The handler of peers' messages: the node."""

    async def answer_peer(self, method: str, params: bytes | None) -> bytes:
        """Answer a request of a peer with raw JSON. Raises `MdashError`."""

    def on_peer_notification(self, method: str, params: bytes | None) -> None:
        """Handle a notification that a peer has sent to this node, or to all. Never waits."""

    def on_peer_gap(self) -> None:
        """Handle a gap: notifications of peers until now may have been lost."""


class Peers:
    """The other nodes.

    Args:
        id: the id of this node.
        background: runs work that outlives its caller.
        max_answer: bytes of a device's answer, which a peer passes on.
    """

    def __init__(
        self, bus: MessageBus, id: str, handler: PeerHandler, background: Background, *, max_answer: int = 0
    ) -> None:
        size = max(PEER_LIMITS.max_frame, max_answer + ENVELOPE_SIZE)
        self._limits = attrs.evolve(PEER_LIMITS, max_frame=size, max_answer=size)
        self._bus = bus
        self._id = id.encode()
        self._handler = handler
        self._background = background
        self._links: dict[str, tuple[Link, _BusStream]] = {}
        self._next_id = 1
        """The first id for the calls of a new link, higher than those of earlier links, whose answers may come late."""

    @property
    def size_to_send(self) -> int:
        """The bytes of the frames that wait to be sent to peers."""
        return sum(link.connection.size_to_send for link, _ in self._links.values())

    async def run(self) -> None:
        """Receive messages of the peers, for ever."""
        async with trio.open_nursery() as nursery:
            on_gap = self._handler.on_peer_gap
            nursery.start_soon(self._listen, _topic(self._id.decode()), self._receive, on_gap)
            nursery.start_soon(self._listen, BROADCAST_TOPIC, self._receive_broadcast, on_gap)

    async def call(self, node: str, method: str, params: bytes, *, timeout: float) -> bytes:
        """Call a peer. Returns its result as raw JSON.

        Raises:
            CallTimeout: no answer in time.
            MdashError: the error that the peer has raised.
        """
        link, _ = self._link(node)
        try:
            return await link.call(method, params, timeout=timeout)
        except RpcError as exc:
            raise _ERRORS.get(exc.code, MdashError)(exc.message) from None

    def notify(self, node: str, method: str, params: object) -> None:
        """Send a notification to a peer. Never waits. Raises `MdashError` if too much waits to be sent to it."""
        link, _ = self._link(node)
        link.notify(method, _json.encode(params))

    def broadcast(self, method: str, params: object) -> None:
        """Send a notification to all nodes, also this one, as soon as the bus accepts it."""
        self._background.spawn(lambda: self._background.persist(lambda: self.publish(method, params)))

    async def publish(self, method: str, params: object) -> None:
        """Send a notification to all nodes, also this one. Raises `StorageError`."""
        message = b"%b %b" % (self._id, jsonrpc.encode_request(method, _json.encode(params)))
        await self._bus.publish(BROADCAST_TOPIC, message)

    def forget(self, node: str) -> None:
        """Close the link of a peer that is gone, so that its callers stop waiting."""
        if (found := self._links.pop(node, None)) is not None:
            self._count_calls(found[0])
            found[0].close(GOING_AWAY, "the node that held the device is gone")

    async def _listen(self, topic: str, receive: Callable[[bytes], None], on_subscribed: Callable[[], None]) -> None:
        await self._background.listen(self._bus, topic, receive, on_subscribed=on_subscribed)

    def _receive(self, message: bytes) -> None:
        sender, _, frame = message.partition(b" ")
        try:
            node = sender.decode("ascii")
        except UnicodeDecodeError:
            return  # not from a node: a shared bus may carry messages of other programs
        self._link(node)[1].offer(frame)

    def _receive_broadcast(self, message: bytes) -> None:
        request = jsonrpc.decode(message.partition(b" ")[2])
        if isinstance(request, Request):
            self._handler.on_peer_notification(request.method, request.params)

    def _link(self, node: str) -> tuple[Link, _BusStream]:
        found = self._links.get(node)
        if found is None or found[0].connection.closed:
            stream = _BusStream(self._bus, _topic(node), self._id, on_lost=self._handler.on_peer_gap)
            if found is not None:
                self._count_calls(found[0])
            connection = Connection(self._limits, first_id=self._next_id)
            link = Link(stream, spawn=self._background.spawn, connection=connection)
            if len(self._links) >= MAX_IDLE_PEERS:
                self._forget_idle()
            found = self._links[node] = link, stream
            self._background.spawn(lambda: link.run(lambda event: self._handle(link, event)))
        return found

    def _count_calls(self, ended: Link) -> None:
        self._next_id = max(self._next_id, ended.connection.next_id)

    def _forget_idle(self) -> None:
        """Forget the first link over which nothing is under way, if there is one."""
        for node, (link, stream) in self._links.items():
            if link.connection.is_idle and stream.is_idle:
                self.forget(node)
                return

    async def _handle(self, link: Link, event: PeerEvent) -> None:
        if isinstance(event, RequestReceived):
            self._background.spawn(lambda: self._answer(link, event))  # at most `max_requests`: the connection counts
        elif isinstance(event, NotificationReceived):
            self._handler.on_peer_notification(event.method, event.params)

    async def _answer(self, link: Link, request: RequestReceived) -> None:
        try:
            link.reply(request.ref, await self._handler.answer_peer(request.method, request.params))
        except MdashError as exc:
            link.reply_error(request.ref, RpcError(status_of(exc), str(exc)))


class _BusStream:
    """A `MessageStream` to one peer.

    Args:
        on_lost: called when a frame of the peer is lost because too many wait. Must not wait.
    """

    control_pending = False

    def __init__(
        self, bus: MessageBus, topic: str, sender: bytes, *, on_lost: Callable[[], None] = lambda: None
    ) -> None:
        self._on_lost = on_lost
        self.on_control: Callable[[], None] = lambda: None
        self._bus = bus
        self._topic = topic
        self._head = sender + b" "
        self._outlet, self._inbox = trio.open_memory_channel[bytes](MAX_INBOX)
        self._unhandled = 0
        self._is_handling = self._is_sending = False

    @property
    def is_idle(self) -> bool:
        """Whether every frame of the peer has been handled, and none is on its way to it."""
        return not (self._unhandled or self._is_sending)

    def offer(self, frame: bytes) -> None:
        """Queue a frame of the peer. Never waits."""
        try:
            self._outlet.send_nowait(frame)
            self._unhandled += 1
        except trio.WouldBlock:
            self._on_lost()  # as after a gap: a notification may have been in it; the call of a sender times out
        except trio.ClosedResourceError:
            pass  # delivery is at most once

    async def receive(self) -> bytes | None:
        if self._is_handling:  # the frame before: the link asks for one after the other
            self._is_handling = False
            self._unhandled -= 1
        try:
            frame = await self._inbox.receive()
        except trio.EndOfChannel:
            return None
        self._is_handling = True
        return frame

    async def send(self, messages: Sequence[bytes]) -> None:
        self._is_sending = True
        try:
            for message in messages:
                try:
                    await self._bus.publish(self._topic, self._head + message)
                except StorageError:
                    pass  # delivery is at most once: the call times out
        finally:
            self._is_sending = False

    def close(self, code: int, reason: str) -> None:
        self.abort()

    def abort(self) -> None:
        self._outlet.close()


def _topic(node: str) -> str:
    """Return the topic of the frames to a node."""
    return f"node.{node}"
