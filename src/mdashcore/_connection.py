"""One live JSON-RPC conversation, without I/O: bytes in, events out; calls in, bytes out.

The same class serves both ends. A transport does four things: it hands every received frame to
`receive_data`, takes `events()`, sends what `data_to_send()` gives, and calls `handle_timer` at
`next_deadline()`. Time is an argument, on whatever monotonic clock the transport uses.
"""

from __future__ import annotations

import heapq
from typing import Final

import attrs

from mdashcore import jsonrpc
from mdashcore._errors import Busy, LocalProtocolError, RemoteProtocolError, RpcError, TooLarge
from mdashcore._events import (
    CallTimedOut,
    ConnectionClosed,
    Event,
    NotificationReceived,
    RequestReceived,
    ResponseReceived,
)
from mdashcore.jsonrpc import ErrorObject, RawJson, Request, Response

__all__ = ["Connection", "ConnectionLimits"]

TOO_MANY_REQUESTS: Final = 429  # what Mongoose OS devices answer themselves when their queue is full


@attrs.frozen
class ConnectionLimits:
    """The bounds of one connection. Each is far above what a healthy peer needs."""

    max_frame: int = 2**17
    """Bytes of one frame, in and out: AWS IoT's message limit; a firmware chunk is far below."""

    max_calls: int = 256
    """Calls waiting for an answer. A Mongoose device queues 25 frames."""

    max_requests: int = 64
    """Requests of the peer not yet answered; one more is answered with error 429."""

    max_events: int = 1024
    """Events not yet taken: only an embedder that forgot to take them gets here."""

    max_outbox: int = 2**20
    """Bytes not yet taken for sending: a peer that is so far behind does not read. Calls then raise `Busy`, and
    a request, or what else has to be answered, closes the connection."""


class _Batch:
    """The answers to one batch, sent together when the last is there (section 6)."""

    __slots__ = ("missing", "parts", "size")

    def __init__(self) -> None:
        self.missing = 0
        self.parts: list[bytes] = []
        self.size = 1  # bytes of the frame: each part brings a comma or the last bracket


class Connection:
    """A JSON-RPC 2.0 peer.

    Receiving raises `RemoteProtocolError` or nothing, whatever bytes arrive; after it the connection is
    closed. What a peer merely did wrong (bad JSON, an invalid request) is answered as the specification
    says, by the connection itself.

    Args:
        first_id: the id of the first call.
    """

    __slots__ = (
        "_calls",
        "_closed",
        "_deadlines",
        "_inbox",
        "_next_id",
        "_next_ref",
        "_outbox",
        "_outbox_size",
        "_requests",
        "limits",
    )

    def __init__(self, limits: ConnectionLimits = ConnectionLimits(), *, first_id: int = 1) -> None:
        self.limits = limits
        self._inbox: list[Event] = []
        self._outbox: list[bytes] = []
        self._outbox_size = 0
        self._next_id = first_id  # Mongoose OS wants integers; mDash counted from 1 on every connection
        self._calls: dict[int, str] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._next_ref = 1
        self._requests: dict[int, tuple[RawJson, _Batch | None]] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the conversation has ended, from either side."""
        return self._closed

    @property
    def next_id(self) -> int:
        """The id of the next call: where to go on, if another connection follows this one on the same way."""
        return self._next_id

    # In

    def receive_data(self, frame: bytes | str) -> None:
        """Take one frame: a whole text message of the transport.

        Raises:
            RemoteProtocolError: the frame is too large, or the peer floods. The connection is closed.
        """
        if self._closed:
            return
        data = frame if isinstance(frame, bytes) else frame.encode("utf-8", "surrogatepass")
        if len(data) > self.limits.max_frame:
            self._fail(f"frame of {len(data)} bytes; at most {self.limits.max_frame} are allowed")
        message = jsonrpc.decode(data)
        if isinstance(message, list):
            batch = _Batch()
            batch.missing = 1  # held open until every member has been seen
            for member in message:
                self._receive(member, batch)
            self._finish_part(batch)
        else:
            self._receive(message, None)

    def _receive(self, message: jsonrpc.Message, batch: _Batch | None) -> None:
        if isinstance(message, Request):
            if message.id is None:
                self._emit(NotificationReceived(message.method, message.params))
            else:
                self._receive_request(message, message.id, batch)
        elif isinstance(message, Response):
            self._receive_response(message, batch)
        else:
            self._answer(jsonrpc.encode_error(message.id, message.error), batch)

    def _receive_request(self, request: Request, id_: RawJson, batch: _Batch | None) -> None:
        self._check_reader()
        if len(self._requests) >= self.limits.max_requests:
            error = ErrorObject(TOO_MANY_REQUESTS, "too many requests not yet answered")
            self._answer(jsonrpc.encode_error(id_, error), batch)
            return
        ref = self._next_ref
        self._next_ref += 1
        self._requests[ref] = (id_, batch)
        if batch is not None:
            batch.missing += 1
        self._emit(RequestReceived(ref, request.method, request.params))

    def _receive_response(self, response: Response, batch: _Batch | None) -> None:
        id_ = _call_id(response.id)
        method = None if id_ is None else self._calls.get(id_)
        if id_ is None or method is None:
            # Late, abandoned, or never asked for: ignored, or two peers could answer each other for ever.
            # Without a result, and never one of ours, it was meant as a request. The answer has no id: with
            # one it could be taken for the answer to a request that the peer did send.
            was_ours = id_ is not None and 0 < id_ < self._next_id
            if response.result is None and response.error is None and not was_ours:
                error = ErrorObject(jsonrpc.INVALID_REQUEST, "Invalid Request: no method")
                self._answer(jsonrpc.encode_error(None, error), batch)
            return
        rpc_error = None if response.error is None else response.error.exception()
        self._emit(ResponseReceived(id_, method, response.result or b"null", rpc_error))
        del self._calls[id_]  # only now: where the inbox is full, ConnectionClosed names it

    def events(self) -> list[Event]:
        """Everything that happened since the last call, oldest first."""
        events, self._inbox = self._inbox, []
        return events

    def next_deadline(self) -> float | None:
        """When `handle_timer` has to be called next, or None."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def handle_timer(self, now: float) -> None:
        """Give up the calls whose deadline is not after `now`: one `CallTimedOut` each.

        Raises:
            RemoteProtocolError: `events()` was not called for `max_events` events.
        """
        while self._deadlines and self._deadlines[0][0] <= now:
            _, id_ = heapq.heappop(self._deadlines)
            method = self._calls.get(id_)
            if method is not None:
                self._emit(CallTimedOut(id_, method))
                del self._calls[id_]

    # Out

    def call(self, method: str, params: object = None, *, deadline: float | None = None) -> int:
        """Call a method of the peer; the answer comes as an event with the id returned here.

        Args:
            params: `bytes` are raw JSON; anything else is encoded; None sends no params.
            deadline: when to give up, on the clock of `handle_timer`; None leaves that to the caller.

        Raises:
            LocalProtocolError: the connection is closed.
            InvalidInput: the method or the params have no JSON form.
            TooLarge: the frame would exceed `max_frame`.
            Busy: too many calls are waiting, or the peer does not read.
        """
        self._check_room()
        if len(self._calls) >= self.limits.max_calls:
            raise Busy(f"{len(self._calls)} calls are waiting for the peer's answer")
        id_ = self._next_id
        self._send(jsonrpc.encode_request(method, None if params is None else jsonrpc.to_raw(params), id_))
        self._next_id += 1
        self._calls[id_] = method
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, id_))
            if len(self._deadlines) > 2 * self.limits.max_calls:  # answered calls leave theirs behind
                self._deadlines = [entry for entry in self._deadlines if entry[1] in self._calls]
                heapq.heapify(self._deadlines)
        return id_

    def notify(self, method: str, params: object = None) -> None:
        """Tell the peer something; there is no answer. Raises as `call` does."""
        self._check_room()
        self._send(jsonrpc.encode_request(method, None if params is None else jsonrpc.to_raw(params)))

    def reply(self, ref: int, result: object = None) -> None:
        """Answer a `RequestReceived`. Once; a connection that has closed meanwhile ignores it.

        The answers to a batch go together, once the last is there; in several frames where one is too small.

        Raises:
            LocalProtocolError: there is no such unanswered request.
            InvalidInput, TooLarge: the result cannot be sent; the request is still unanswered.
        """
        raw = jsonrpc.to_raw(result)
        id_ = self._unanswered(ref)
        if id_ is not None:
            self._answer_request(ref, jsonrpc.encode_result(id_, raw))

    def reply_error(self, ref: int, error: RpcError | ErrorObject) -> None:
        """Answer a `RequestReceived` with an error. Otherwise as `reply`."""
        if isinstance(error, RpcError):
            data = None if error.data is None else jsonrpc.to_raw(error.data)
            error = ErrorObject(error.code, error.message, data)
        id_ = self._unanswered(ref)
        if id_ is not None:
            self._answer_request(ref, jsonrpc.encode_error(id_, error))

    def abandon(self, id: int) -> None:
        """Stop waiting for a call: its answer will be ignored. Harmless where there is no such call."""
        self._calls.pop(id, None)

    def close(self, reason: str = "closed") -> None:
        """End the conversation: `ConnectionClosed` is its last event. What is in the outbox may still go."""
        if self._closed:
            return
        self._closed = True
        calls = tuple(self._calls)
        self._calls.clear()
        self._deadlines.clear()
        self._requests.clear()
        self._inbox.append(ConnectionClosed(reason, calls))

    @property
    def has_data_to_send(self) -> bool:
        """Whether `data_to_send` would give anything."""
        return bool(self._outbox)

    def data_to_send(self) -> list[bytes]:
        """The frames to send now, each one text message; they are forgotten here."""
        frames, self._outbox = self._outbox, []
        self._outbox_size = 0
        return frames

    # Inside

    def _unanswered(self, ref: int) -> RawJson | None:
        if self._closed:
            return None
        if ref not in self._requests:
            raise LocalProtocolError(f"request {ref} is unknown, or answered already")
        return self._requests[ref][0]

    def _answer_request(self, ref: int, data: bytes) -> None:
        _, batch = self._requests[ref]
        self._check_frame(len(data) if batch is None else len(data) + 2)
        del self._requests[ref]
        if batch is None:
            self._put(data)
        else:
            self._add_part(batch, data)
            self._finish_part(batch)

    def _answer(self, data: bytes, batch: _Batch | None) -> None:
        """An answer of the connection itself, which has no ref."""
        self._check_reader()
        if batch is None:
            self._put(data)
        else:
            self._add_part(batch, data)

    def _add_part(self, batch: _Batch, data: bytes) -> None:
        if batch.size + len(data) + 1 > self.limits.max_frame:  # the rest goes in another frame, or nobody takes it
            self._flush(batch)
        batch.parts.append(data)
        batch.size += len(data) + 1

    def _finish_part(self, batch: _Batch) -> None:
        batch.missing -= 1
        if batch.missing == 0:
            self._flush(batch)

    def _flush(self, batch: _Batch) -> None:
        if batch.parts:
            self._put(jsonrpc.encode_batch(batch.parts))
        batch.parts = []
        batch.size = 1

    def _check_room(self) -> None:
        if self._closed:
            raise LocalProtocolError("the connection is closed")
        if self._outbox_size > self.limits.max_outbox:
            raise Busy("the peer does not read what it is sent")

    def _check_reader(self) -> None:
        if self._outbox_size > self.limits.max_outbox:
            self._fail("the peer sends requests and does not read the answers")

    def _check_frame(self, size: int) -> None:
        if size > self.limits.max_frame:
            raise TooLarge(f"frame of {size} bytes; at most {self.limits.max_frame} are allowed")

    def _send(self, data: bytes) -> None:
        self._check_frame(len(data))
        self._put(data)

    def _put(self, data: bytes) -> None:
        self._outbox.append(data)
        self._outbox_size += len(data)

    def _emit(self, event: Event) -> None:
        if len(self._inbox) >= self.limits.max_events:
            self._fail(f"more than {self.limits.max_events} events were not taken")
        self._inbox.append(event)

    def _fail(self, why: str) -> None:
        self.close(why)
        raise RemoteProtocolError(why)


def _call_id(raw: RawJson | None) -> int | None:
    """An id of ours, also where a peer made a string of it."""
    if raw is None:
        return None
    digits = raw.strip(b'"')
    return int(digits) if digits.isdigit() else None  # MAX_ID bounds the work
