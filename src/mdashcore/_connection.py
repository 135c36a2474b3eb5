"""One JSON-RPC connection with a peer, without I/O: bytes in, events out; calls in, bytes out.

Both ends use the same class. A transport does four things: it gives every received frame to
`receive_data`, processes `events()`, sends the frames of `data_to_send()`, and calls `handle_timer` at
`next_deadline()`. Times are arguments, in seconds on the monotonic clock of the transport.
"""

from __future__ import annotations

import heapq
from typing import Final

from mdashcore import jsonrpc
from mdashcore._batch import BatchAnswer
from mdashcore._call_ids import call_id
from mdashcore._connection_limits import ConnectionLimits
from mdashcore._decoding import as_frame
from mdashcore._errors import (
    AnswerTooLarge,
    Busy,
    InvalidAnswer,
    InvalidInput,
    LocalProtocolError,
    RemoteProtocolError,
    RpcError,
    TooLarge,
)
from mdashcore._events import (
    BINARY,
    NOT_JSON,
    NOT_JSON_RPC,
    NOT_UTF8,
    TOO_LARGE,
    CallTimedOut,
    ConnectionClosed,
    Event,
    FrameRejected,
    NotificationReceived,
    RequestReceived,
    ResponseReceived,
)
from mdashcore._messages import MAX_ID
from mdashcore._salvage import END_SIZE, salvage
from mdashcore.jsonrpc import ErrorObject, Invalid, RawJson, Request, Response

__all__ = ["Connection"]

TOO_MANY_REQUESTS: Final = 429  # the code with which Mongoose OS devices refuse a request when their own queue is full

FRAME_TOO_LARGE: Final = 413  # HTTP's code, as for every other error of this package

_NO_METHOD: Final = Invalid(ErrorObject(jsonrpc.INVALID_REQUEST, "Invalid Request: no method"))

_BROKEN: Final = {
    BINARY: "a binary frame: JSON-RPC goes in text frames",
    NOT_UTF8: "a text frame that is not UTF-8",
}

SHOWN_BYTES: Final = 128  # bytes of a rejected frame that are kept, so that an operator can see how it begins

_NOT_READING: Final = "the peer sends requests and does not read the answers"


class Connection:
    """A JSON-RPC 2.0 peer.

    Receiving raises only `RemoteProtocolError`, whatever bytes arrive. After that error the connection is closed.
    A smaller mistake of the peer (bad JSON, an invalid request) is answered by the connection itself, as the
    specification says.

    Args:
        limits: the bounds of this connection.
        first_id: the id of the first call, 1 or more.

    Raises:
        InvalidInput: `first_id` or `limits` has a wrong type or value.

    >>> server, device = Connection(), Connection()
    >>> server.call("Sys.GetInfo")
    1
    >>> for frame in server.data_to_send():
    ...     device.receive_data(frame)
    >>> device.events()
    [RequestReceived(ref=1, method='Sys.GetInfo', params=None)]
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
        "_rejected",
        "_requests",
        "limits",
    )

    def __init__(self, limits: ConnectionLimits = ConnectionLimits(), *, first_id: int = 1) -> None:
        if not isinstance(limits, ConnectionLimits):
            raise InvalidInput(f"limits are ConnectionLimits, not {type(limits).__name__}")
        if type(first_id) is not int or first_id < 1:
            raise InvalidInput("first_id is a whole number from 1 on")
        self.limits: ConnectionLimits = limits
        self._inbox: list[Event] = []
        self._outbox: list[bytes] = []
        self._outbox_size = 0
        self._next_id = first_id  # Mongoose OS wants integers; mDash counted from 1 on every connection
        self._calls: dict[int, str] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._next_ref = 1
        self._requests: dict[int, tuple[RawJson, BatchAnswer | None]] = {}
        self._rejected = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether either side has ended the connection."""
        return self._closed

    @property
    def next_id(self) -> int:
        """The id of the next call: the `first_id` of a connection that follows this one on the same transport."""
        return self._next_id

    @property
    def is_idle(self) -> bool:
        """Whether no call and no request waits for its answer, and no frame waits to be sent."""
        return not (self._calls or self._requests or self._outbox)

    # In

    def receive_data(self, frame: bytes | bytearray | memoryview | str) -> None:
        """Process one frame: a complete text message of the transport.

        The events that follow from the frame are returned by `events()`. Does nothing after the connection has closed.

        Args:
            frame: UTF-8 bytes, or text.

        Raises:
            RemoteProtocolError: the peer floods. The connection is closed.
            TypeError: the frame is neither text nor bytes.
        """
        data = frame if type(frame) is bytes else as_frame(frame)
        if self._closed:
            return
        if len(data) > self.limits.max_frame:
            self._receive_large(data)
            return
        message = jsonrpc.decode(data)
        if type(message) is Request:
            self._receive_request(message, None)
        elif type(message) is Response:
            if (invalid := self._receive_response(message, None)) is not None:
                self._reject_invalid(invalid, data)
        elif type(message) is list:
            self._receive_batch(message, data)
        elif type(message) is Invalid:
            self._receive_invalid(message, None)
            self._reject_invalid(message, data)

    def _receive_batch(self, members: list[jsonrpc.Message], data: bytes) -> None:
        batch = BatchAnswer(self.limits.max_frame)
        invalid: Invalid | None = None
        for member in members:
            if isinstance(member, Invalid):
                invalid = invalid or member
                self._receive_invalid(member, batch)
            elif isinstance(member, Request):
                self._receive_request(member, batch)
            else:
                found = self._receive_response(member, batch)
                invalid = invalid or found
        self._finish_part(batch)
        if invalid is not None:
            self._reject_invalid(invalid, data)

    def _receive_large(self, data: bytes) -> None:
        """Process a frame over `max_frame`. Only an answer may be that large."""
        message = jsonrpc.decode(data) if len(data) <= self.limits.max_message else None
        if isinstance(message, Response):
            if (invalid := self._receive_response(message, None)) is not None:
                self._reject_invalid(invalid, data)
        elif isinstance(message, Invalid):
            self._receive_invalid(message, None)
            self._reject_invalid(message, data)
        else:
            self.receive_broken(TOO_LARGE, len(data), data[:END_SIZE], data[-END_SIZE:])

    def receive_broken(self, kind: str, size: int | None, head: bytes = b"", tail: bytes = b"") -> None:
        """Process the parts that a transport has kept of a frame that cannot be accepted as a whole.

        A call that the frame answers ends with `InvalidAnswer`, or with `AnswerTooLarge`. The call is found by the id
        in the frame. If a frame that is too large has no readable id, every waiting call ends, because it may answer
        any of them.

        Args:
            kind: the defect of the frame, as in `FrameRejected`.
            size: bytes of the frame; `None` if it is unknown.
            head: the first bytes of the frame. `END_SIZE` of them are examined.
            tail: the last bytes of the frame, in the same way.

        Raises:
            RemoteProtocolError: as for `receive_data`.
        """
        if self._closed:
            return
        limit = self.limits.max_message
        reason, error = _BROKEN.get(kind, kind), InvalidAnswer(f"the answer came in a frame that is not taken: {kind}")
        if kind == TOO_LARGE:
            reason = f"{'more bytes' if size is None else f'{size} bytes'}; at most {self.limits.max_frame} are taken"
            error = AnswerTooLarge(size, limit)
        id_, is_request = salvage(head, tail)
        if is_request:
            if id_ is not None and len(id_) <= MAX_ID:
                self._correct(jsonrpc.encode_error(id_, ErrorObject(FRAME_TOO_LARGE, f"a frame of {reason}")), None)
        elif id_ is not None:
            self._end_call(call_id(id_), error)
        elif kind == TOO_LARGE:
            for call in tuple(self._calls):
                self._end_call(call, error)
        self._reject(kind, reason, size, head)

    def _receive_request(self, request: Request, batch: BatchAnswer | None) -> None:
        id_ = request.id
        if id_ is None:
            self._emit(NotificationReceived(request.method, request.params))
            return
        if self._outbox_size > self.limits.max_outbox:
            self._fail(_NOT_READING)
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

    def _receive_response(self, response: Response, batch: BatchAnswer | None) -> Invalid | None:
        id_ = call_id(response.id)
        method = None if id_ is None else self._calls.get(id_)
        if id_ is None or method is None:
            # A response to a call that is unknown, late or abandoned is ignored, or two peers could answer each other
            # for ever. A message without a result whose id was never used here was meant as a request. The error has no
            # id, because the peer could take one for the answer to a request that it did send.
            was_ours = id_ is not None and 0 < id_ < self._next_id
            if response.result is not None or response.error is not None or was_ours:
                return None
            self._correct(jsonrpc.encode_error(None, _NO_METHOD.error), batch)
            return _NO_METHOD
        rpc_error = None if response.error is None else response.error.exception()
        self._emit(ResponseReceived(id_, method, response.result or b"null", rpc_error))
        del self._calls[id_]  # only now: if the inbox is full, ConnectionClosed names this call
        return None

    def _receive_invalid(self, message: Invalid, batch: BatchAnswer | None) -> None:
        """Answer a message that was meant as a request, or end the call that it was meant to answer."""
        if message.is_request:
            self._correct(jsonrpc.encode_error(message.id, message.error), batch)
        elif message.id is None:
            self._correct(jsonrpc.encode_error(None, message.error), batch)
        else:
            self._end_call(call_id(message.id), InvalidAnswer(f"the answer cannot be read: {message.error.message}"))

    def _end_call(self, id: int | None, error: InvalidAnswer) -> None:
        if id is not None and (method := self._calls.get(id)) is not None:
            self._emit(ResponseReceived(id, method, b"null", error))
            del self._calls[id]

    def _correct(self, data: bytes, batch: BatchAnswer | None) -> None:
        """Answer an unreadable frame, as long as `max_corrections` is not reached."""
        if self._rejected < self.limits.max_corrections:
            self._answer(data, batch)

    def _reject_invalid(self, message: Invalid, data: bytes) -> None:
        kind = NOT_JSON if message.error.code == jsonrpc.PARSE_ERROR else NOT_JSON_RPC
        self._reject(kind, message.error.message, len(data), data)

    def _reject(self, kind: str, reason: str, size: int | None, head: bytes) -> None:
        self._rejected += 1
        self._emit(FrameRejected(kind, reason, size, head[:SHOWN_BYTES], self._rejected))

    def events(self) -> list[Event]:
        """Return all events since the last call, oldest first."""
        events, self._inbox = self._inbox, []
        return events

    def next_deadline(self) -> float | None:
        """Return the time at which `handle_timer` has to be called next, or `None` if no call has a deadline."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def handle_timer(self, now: float) -> None:
        """End the calls whose deadline is not after `now`, with one `CallTimedOut` each.

        Args:
            now: seconds, on the clock of the deadlines.

        Raises:
            RemoteProtocolError: `events()` was not called for `max_events` events.
            InvalidInput: `now` is not a number.
        """
        _check_time("now", now)
        while self._deadlines and self._deadlines[0][0] <= now:
            _, id_ = heapq.heappop(self._deadlines)
            method = self._calls.get(id_)
            if method is not None:
                self._emit(CallTimedOut(id_, method))
                del self._calls[id_]

    # Out

    def call(self, method: str, params: object = None, *, deadline: float | None = None) -> int:
        """Call a method of the peer, and return the id of the call. The event that ends the call has the same id.

        Args:
            method: the name, at most 256 characters.
            params: `bytes` are raw JSON; any other value is encoded; `None` sends no params.
            deadline: the time at which the call times out, in seconds on the clock of `handle_timer`. With `None` the
                caller decides when to `abandon` the call.

        Raises:
            LocalProtocolError: the connection is closed.
            InvalidInput: the method is not text of at most 256 characters, the deadline is not a number, or the params
                have no JSON form or are bytes that are not JSON.
            TooLarge: the frame would exceed `max_frame`.
            Busy: `max_calls` calls are waiting, or the peer does not read.
        """
        if deadline is not None:
            _check_time("a deadline", deadline)
        self._check_room()
        if len(self._calls) >= self.limits.max_calls:
            raise Busy(f"{len(self._calls)} calls are waiting for the peer's answer")
        id_ = self._next_id
        self._send(jsonrpc.encode_request(method, params, id_))
        self._next_id += 1
        self._calls[id_] = method
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, id_))
            if len(self._deadlines) > 2 * self.limits.max_calls:  # answered calls leave their deadlines behind
                self._deadlines = [entry for entry in self._deadlines if entry[1] in self._calls]
                heapq.heapify(self._deadlines)
        return id_

    def notify(self, method: str, params: object = None) -> None:
        """Send a notification, which the peer does not answer. Arguments and errors are those of `call`."""
        self._check_room()
        self._send(jsonrpc.encode_request(method, params))

    def reply(self, ref: int, result: object = None) -> None:
        """Answer a `RequestReceived`. Does nothing after the connection has closed.

        The answers to a batch are sent together, after the last one; in several frames if they do not fit into one.

        Args:
            ref: the `ref` of the event.
            result: `bytes` are raw JSON; any other value is encoded. A `msgspec.Raw` is not checked to be JSON.

        Raises:
            LocalProtocolError: there is no such request, or it has been answered.
            InvalidInput: the result has no JSON form, or is bytes that are not JSON. The request is still unanswered.
            TooLarge: the frame would exceed `max_frame`. The request is still unanswered.
        """
        request = self._unanswered(ref)
        raw = jsonrpc.to_raw(result)
        if request is not None:
            id_, batch = request
            self._answer_request(ref, jsonrpc.result_frame(id_, raw), batch)

    def reply_error(self, ref: int, error: RpcError | ErrorObject) -> None:
        """Answer a `RequestReceived` with an error. Other errors are those of `reply`.

        Args:
            ref: the `ref` of the event.
            error: code, message and optional data for the peer.

        Raises:
            InvalidInput: the code is not an int, the message is not text, or the data have no JSON form.
        """
        if isinstance(error, RpcError):
            data = None if error.data is None else jsonrpc.to_raw(error.data)
            error = ErrorObject(error.code, error.message, data)
        request = self._unanswered(ref)
        id_, batch = request or (None, None)
        answer = jsonrpc.encode_error(id_, error)
        if request is not None:
            self._answer_request(ref, answer, batch)

    def abandon(self, id: int) -> None:
        """Stop waiting for a call. Its answer will be ignored. Does nothing if no call with this id is waiting."""
        self._calls.pop(id, None)
        if not self._calls:
            self._calls = {}  # an emptied dict keeps its memory

    def close(self, reason: str = "closed") -> None:
        """End the connection: `ConnectionClosed` is its last event. Frames in the outbox can still be sent.

        Args:
            reason: the `reason` of the event.
        """
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
        """Whether `data_to_send` would return any frames."""
        return bool(self._outbox)

    @property
    def size_to_send(self) -> int:
        """The bytes of the frames that `data_to_send` would return."""
        return self._outbox_size

    def data_to_send(self) -> list[bytes]:
        """Return the frames to send now, each of them one text message, and forget them."""
        frames, self._outbox = self._outbox, []
        self._outbox_size = 0
        return frames

    # Inside

    def _unanswered(self, ref: int) -> tuple[RawJson, BatchAnswer | None] | None:
        """Return id and batch of a request, or `None` after the connection has closed. Raises `LocalProtocolError`."""
        request = self._requests.get(ref)
        if request is None and not self._closed:
            raise LocalProtocolError(f"request {ref} is unknown, or answered already")
        return request

    def _answer_request(self, ref: int, data: bytes, batch: BatchAnswer | None) -> None:
        if batch is None:
            self._check_frame(len(data))
            del self._requests[ref]
            self._put(data)
        else:
            self._check_frame(len(data) + len("[]"))
            del self._requests[ref]
            self._add_part(batch, data)
            self._finish_part(batch)

    def _answer(self, data: bytes, batch: BatchAnswer | None) -> None:
        """Send an answer of the connection itself, or add it to its batch."""
        self._check_reader()
        if batch is None:
            self._put(data)
        else:
            self._add_part(batch, data)

    def _add_part(self, batch: BatchAnswer, answer: bytes) -> None:
        if (frame := batch.add(answer)) is not None:
            self._put(frame)

    def _finish_part(self, batch: BatchAnswer) -> None:
        if (frame := batch.finish_one()) is not None:
            self._put(frame)

    def _check_room(self) -> None:
        if self._closed:
            raise LocalProtocolError("the connection is closed")
        if self._outbox_size > self.limits.max_outbox:
            raise Busy("the peer does not read what it is sent")

    def _check_reader(self) -> None:
        if self._outbox_size > self.limits.max_outbox:
            self._fail(_NOT_READING)

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


def _check_time(what: str, time: float) -> None:
    if type(time) not in (int, float) or time != time:
        raise InvalidInput(f"{what} is a time on a monotonic clock, in seconds, not {time!r:.40}")
