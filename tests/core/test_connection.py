"""One connection: which answer belongs to which call, when it is too late, and how much is too much."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mdashcore import jsonrpc
from mdashcore._connection import TOO_MANY_REQUESTS, Connection
from mdashcore._connection_limits import ConnectionLimits
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
    TOO_LARGE,
    CallTimedOut,
    ConnectionClosed,
    Event,
    FrameRejected,
    NotificationReceived,
    RequestReceived,
    ResponseReceived,
)
from mdashcore._messages import MAX_ID, MAX_METHOD
from mdashcore.jsonrpc import ErrorObject
from mdashcore.testing import ConnectionPair


def frames(connection: Connection) -> list[Any]:
    """What the connection wants to send, as values."""
    return [jsonrpc.loads(frame) for frame in connection.data_to_send()]


def receive(connection: Connection, *messages: object) -> list[Event]:
    """What comes of one frame after the other."""
    for message in messages:
        connection.receive_data(message if isinstance(message, bytes) else jsonrpc.dumps(message))
    return connection.events()


def rejections(events: list[Event]) -> list[FrameRejected]:
    """Events, all of which have to be of rejected frames."""
    assert all(isinstance(event, FrameRejected) for event in events)
    return [event for event in events if isinstance(event, FrameRejected)]


def result(id: int, value: bytes = b"null", method: str = "M") -> ResponseReceived:
    return ResponseReceived(id, method, value, None)


# --- calls and answers


def test_call_and_answer() -> None:
    """A call goes out as a request with the next number, and comes back as its answer; the peer sees the request."""
    pair = ConnectionPair()
    first = pair.left.call("GPIO.Read", {"pin": 2})
    second = pair.left.call("Sys.GetInfo")
    assert (first, second) == (1, 2)
    _, requests = pair.pump()
    assert requests == [RequestReceived(1, "GPIO.Read", b'{"pin":2}'), RequestReceived(2, "Sys.GetInfo", None)]
    pair.right.reply(1, {"value": 1})
    assert pair.pump() == ([result(first, b'{"value":1}', "GPIO.Read")], [])


def test_what_is_sent() -> None:
    """Frames are strict JSON-RPC 2.0, without src and dst, which make devices drop them."""
    connection = Connection()
    connection.call("A")
    connection.call("B", {"x": 1})
    connection.call("C", b"[ 1 ]")
    connection.notify("D", None)
    connection.notify("E", b"null")
    assert connection.data_to_send() == [
        b'{"jsonrpc":"2.0","id":1,"method":"A"}',
        b'{"jsonrpc":"2.0","id":2,"method":"B","params":{"x":1}}',
        b'{"jsonrpc":"2.0","id":3,"method":"C","params":[ 1 ]}',
        b'{"jsonrpc":"2.0","method":"D"}',
        b'{"jsonrpc":"2.0","method":"E","params":null}',
    ]
    assert connection.data_to_send() == []


def test_both_ends_call_with_the_same_numbers() -> None:
    """Each end counts for itself: call 1 of one is not call 1 of the other."""
    pair = ConnectionPair()
    assert pair.left.call("M") == pair.right.call("M") == 1
    [left], [right] = pair.pump()
    pair.left.reply(left.ref, "from left")
    pair.right.reply(right.ref, "from right")
    assert pair.pump() == ([result(1, b'"from right"')], [result(1, b'"from left"')])


def test_answers_in_any_order() -> None:
    """Answers find their calls, in whatever order they come."""
    pair = ConnectionPair()
    calls = [pair.left.call("M") for _ in range(5)]
    _, requests = pair.pump()
    for request in reversed(requests):
        pair.right.reply(request.ref, request.ref)
    answers, _ = pair.pump()
    assert answers == [result(id, b"%d" % id) for id in reversed(calls)]


def test_error_answer() -> None:
    """An error arrives with the code, message and data that the peer gave."""
    pair = ConnectionPair()
    for error in (RpcError(404, "No handler for M", {"hint": None}), ErrorObject(-1, "no", b"[1]"), RpcError(7, "")):
        id = pair.left.call("M")
        _, [request] = pair.pump()
        pair.right.reply_error(request.ref, error)
        [answer], _ = pair.pump()
        data = jsonrpc.loads(error.data) if isinstance(error.data, bytes) else error.data
        assert (answer.id, answer.result) == (id, b"null")
        assert isinstance(answer.error, RpcError)
        assert (answer.error.code, answer.error.message, answer.error.data) == (error.code, error.message, data)


def test_only_the_first_answer_counts() -> None:
    """A second answer to the same call is ignored, also inside one batch."""
    connection = Connection()
    id = connection.call("M")
    answers = [{"id": id, "result": 1}, {"id": id, "result": 2}, {"id": id, "error": {"code": 3, "message": ""}}]
    connection.data_to_send()
    assert receive(connection, answers, *answers) == [result(id, b"1")]
    assert frames(connection) == []


def test_answers_to_no_call() -> None:
    """An answer to no call makes no event and no frame."""
    connection = Connection()
    assert receive(connection, {"id": 1, "result": 1}, {"id": "x", "result": 1}, {"id": 9, "error": {}}) == []
    assert frames(connection) == []


def test_abandoned_call() -> None:
    """The answer to an abandoned call is ignored, and another call is not disturbed; abandoning twice is harmless."""
    connection = Connection()
    first, second = connection.call("M"), connection.call("M")
    connection.data_to_send()
    for _ in range(2):
        connection.abandon(first)
    connection.abandon(4711)
    assert receive(connection, {"id": first, "result": 1}, {"id": first}, {"id": second, "result": 2}) == [
        result(second, b"2")
    ]
    assert frames(connection) == []
    assert connection.call("M") == 3, "a number is never used twice, or a late answer could meet a new call"


def test_an_id_alone() -> None:
    """An id and nothing else answers a call; was it no call of ours, it is an invalid request, answered without id."""
    connection = Connection()
    id = connection.call("M")
    connection.data_to_send()
    assert receive(connection, {"id": id}) == [result(id)]
    assert receive(connection, {"id": id}) == []  # late
    assert frames(connection) == []
    assert len(rejections(receive(connection, {"id": id + 1}, {"id": "x"}, {"id": None}, {"id": 0}))) == 4
    answers = frames(connection)
    assert [answer["error"]["code"] for answer in answers] == [jsonrpc.INVALID_REQUEST] * 4
    assert [answer["id"] for answer in answers] == [None] * 4, "the peer may have a call of its own with that number"


@pytest.mark.parametrize(
    "id", [b"7", b'"7"', b"7.0", b"7.000", b'"7.0"', b"7e0", b"7.000000e+00", b"70e-1", b"7E00"], ids=bytes.decode
)
def test_ways_to_write_a_number(id: bytes) -> None:
    """The answer to call 7 is known by its id, also where a library knows doubles only, or makes text of it."""
    connection = Connection(first_id=7)
    connection.call("M")
    assert receive(connection, b'{"id":%b,"result":1}' % id) == [result(7, b"1")]


@pytest.mark.parametrize("id", [b"7.5", b"-7", b"7.0.0", b"1e999", b"7e", b"+7", b"0x7", b"7 0", b"NaN", b"7e-1"])
def test_what_is_not_seven(id: bytes) -> None:
    """No other number or text is taken for it."""
    connection = Connection(first_id=7)
    connection.call("M")
    events = receive(connection, b'{"id":%b,"result":1}' % id, b'{"id":"%b","result":1}' % id)
    assert not [event for event in events if isinstance(event, ResponseReceived)]
    assert receive(connection, {"id": 7, "result": 1}) == [result(7, b"1")]


def test_a_number_that_was_rounded_is_nobodys() -> None:
    """1234567 becomes 1.23457e+06 in C's shortest form, which is the number of another call."""
    connection = Connection(first_id=1_234_570)
    connection.call("M")
    assert receive(connection, b'{"id":1.23457e+06,"result":1}') == []
    assert receive(connection, b'{"id":1234570.0,"result":1}') == [result(1_234_570, b"1")]


# --- answers and other frames that are broken, or of which only the ends are there

BROKEN_ANSWERS = [
    (b'{"id":2,"error":{"code":500,"message":}}', '"message":}}'),
    (b'{"id":2.0,"result":{"t":nan}}', '{"t":nan}'),
    (b'{"result":[1,2,,3],"id":"2"}', "[1,2,,3"),
    (b'{"id":2,"result":"cut o', "cut o"),
    (b'{"id":2,"result":1}}', "1}}"),
    (b'{"result":"' + b"x" * 9000 + b'","y":nan,"id":2}', "nan"),
    (b'{"id":2,"result":{"a":1}{"b":2}}', "}{"),
]


@pytest.mark.parametrize(("frame", "place"), BROKEN_ANSWERS)
def test_a_broken_answer_ends_its_call(frame: bytes, place: str) -> None:
    """A call whose answer is broken ends immediately, with the place; other calls go on, and nothing is sent back."""
    connection = Connection()
    for _ in range(3):
        connection.call("M")
    frames(connection)
    answer, rejected = receive(connection, frame)
    assert isinstance(answer, ResponseReceived)
    assert isinstance(answer.error, InvalidAnswer)
    assert (answer.id, answer.method, answer.result) == (2, "M", b"null")
    assert isinstance(rejected, FrameRejected)
    assert place in rejected.reason
    assert rejected.reason in str(answer.error)
    assert rejected.head == frame[:128]
    assert (rejected.kind, rejected.size) == (NOT_JSON, len(frame))
    assert frames(connection) == []
    assert receive(connection, {"id": 1, "result": 1}, {"id": 2, "result": 1}, {"id": 3, "result": 1}) == [
        result(1, b"1"),
        result(3, b"1"),
    ]


@pytest.mark.parametrize("frame", [b'{"id":2,"method":"M","params":nan}', b'{"params":[1,],"id":2,"method":"M"}'])
def test_a_broken_request_is_answered_with_its_id(frame: bytes) -> None:
    """The sender learns that this request failed; a call of ours with the same number goes on."""
    connection = Connection()
    for _ in range(3):
        connection.call("M")
    frames(connection)
    assert len(rejections(receive(connection, frame))) == 1
    [answer] = frames(connection)
    assert (answer["id"], answer["error"]["code"]) == (2, jsonrpc.PARSE_ERROR)
    assert receive(connection, {"id": 2, "result": 1}) == [result(2, b"1")]


@pytest.mark.parametrize(
    ("head", "tail", "ended"),
    [
        (b'{"id":2,"result":"xxx', b'xxx"}', [2]),
        (b'{"result":"xxx', b'xxx","id":2}', [2]),
        (b'{"result":"xxx', b'xxx"}', [1, 2, 3]),
        (b'[{"id":2,"result":"xxx', b'xxx"}]', [1, 2, 3]),
        (b"", b"", [1, 2, 3]),
        (b'{"id":9,"result":"xxx', b'xxx"}', []),
        (b'{"method":"Log","params":"xxx', b'xxx"}', []),
        (b'{"params":"xxx', b'xxx","method":"Log","id":2}', []),
    ],
)
def test_the_call_of_a_too_large_answer(head: bytes, tail: bytes, ended: list[int]) -> None:
    """The call is found by the id, at either end of the frame; without one any may be meant. A report ends none."""
    connection = Connection()
    for _ in range(3):
        connection.call("M")
    frames(connection)
    connection.receive_broken(TOO_LARGE, 10**6, head, tail)
    *answers, rejected = connection.events()
    assert [answer.id for answer in answers if isinstance(answer, ResponseReceived)] == ended
    assert all("1000000 bytes" in str(answer.error) for answer in answers if isinstance(answer, ResponseReceived))
    assert isinstance(rejected, FrameRejected)
    assert not connection.closed
    assert [frame["error"]["code"] for frame in frames(connection)] == [413] * (b'"method"' in tail)


def test_an_answer_in_a_frame_of_the_wrong_kind() -> None:
    """It ends its call, if that can be read; no other, as it need not be an answer at all."""
    connection = Connection()
    connection.call("M")
    assert len(rejections(receive_broken(connection, BINARY, b"\x00\x01"))) == 1
    answer, rejected = receive_broken(connection, BINARY, b'{"id":1,"result":1}')
    assert isinstance(answer, ResponseReceived)
    assert isinstance(answer.error, InvalidAnswer)
    assert isinstance(rejected, FrameRejected)


def receive_broken(connection: Connection, kind: str, head: bytes) -> list[Event]:
    """What comes of a frame that the transport did not take."""
    connection.receive_broken(kind, len(head), head)
    return connection.events()


def test_params_that_have_no_json_form() -> None:
    """A call that cannot be written is refused, and takes no number."""
    connection = Connection()
    for method, params in (("M", object()), ("M", float("nan")), ("\ud800", None), ("M", "\udfff")):
        with pytest.raises(InvalidInput):
            connection.call(method, params)
        with pytest.raises(InvalidInput):
            connection.notify(method, params)
    assert connection.call("M") == 1
    assert len(frames(connection)) == 1


# --- requests of the peer


@pytest.mark.parametrize("frame", ['{"method":"N","params":"ä"}', '{"method":"N","params":"ä"}'.encode()])
def test_frames_are_text_or_bytes(frame: bytes | str) -> None:
    """A transport may hand over a text message as it has it, decoded or not."""
    connection = Connection()
    connection.receive_data(frame)
    assert connection.events() == [NotificationReceived("N", '"ä"'.encode())]


def test_text_with_a_lone_surrogate() -> None:
    """A text that UTF-8 cannot hold is a parse error, as its bytes would be."""
    connection = Connection()
    connection.receive_data('{"method":"\ud800"}')
    assert [event.kind for event in rejections(connection.events())] == ["not-json"]
    assert [frame["error"]["code"] for frame in frames(connection)] == [jsonrpc.PARSE_ERROR]


def test_duplicate_request_ids() -> None:
    """A peer that uses an id twice gets each request answered, by its own ref."""
    connection = Connection()
    first, second = receive(connection, {"id": 7, "method": "A"}, {"id": 7, "method": "B"})
    assert isinstance(first, RequestReceived)
    assert isinstance(second, RequestReceived)
    connection.reply(second.ref, "b")
    connection.reply(first.ref, "a")
    assert frames(connection) == [
        {"jsonrpc": "2.0", "id": 7, "result": "b"},
        {"jsonrpc": "2.0", "id": 7, "result": "a"},
    ]


@pytest.mark.parametrize("id", [b"1", b'"1"', b"-7.50", b"1e999", b'"\\u00e9"', b"9" * 200, b"null", b'""'])
def test_ids_are_echoed_as_written(id: bytes) -> None:
    """A request's id comes back byte for byte: no number is rounded, no string rewritten."""
    connection = Connection()
    [request] = receive(connection, b'{"id":' + id + b',"method":"M"}')
    assert isinstance(request, RequestReceived)
    connection.reply(request.ref)
    assert connection.data_to_send() == [b'{"jsonrpc":"2.0","id":' + id + b',"result":null}']


@pytest.mark.parametrize("answer", [Connection.reply, lambda c, ref: c.reply_error(ref, RpcError(1, "m"))])
def test_answering_twice(answer: Callable[[Connection, int], None]) -> None:
    """A request is answered once: again, or one that never was, is an error of this side and sends nothing."""
    connection = Connection()
    [request] = receive(connection, {"id": 1, "method": "M"})
    assert isinstance(request, RequestReceived)
    answer(connection, request.ref)
    assert len(frames(connection)) == 1
    for ref in (request.ref, request.ref + 1, 0, -1):
        with pytest.raises(LocalProtocolError, match="unknown, or answered"):
            answer(connection, ref)
    assert frames(connection) == []


def test_reply_that_was_checked_already() -> None:
    """A `msgspec.Raw` is sent as it is, in a batch too."""
    connection = Connection()
    connection.receive_data(b'{"id":1,"method":"M"}')
    connection.receive_data(b'[{"id":2,"method":"M"}]')
    for ref in (1, 2):
        connection.reply(ref, msgspec.Raw(b'{"a": [1 ]}'))
    answers = [b'{"jsonrpc":"2.0","id":%d,"result":{"a": [1 ]}}' % id for id in (1, 2)]
    assert connection.data_to_send() == [answers[0], b"[%b]" % answers[1]]


def test_reply_that_has_no_json_form() -> None:
    """A result that cannot be written leaves the request unanswered, to be answered with an error."""
    connection = Connection()
    [request] = receive(connection, {"id": 1, "method": "M"})
    assert isinstance(request, RequestReceived)
    with pytest.raises(InvalidInput):
        connection.reply(request.ref, object())
    with pytest.raises(InvalidInput):
        connection.reply_error(request.ref, RpcError(1, "m", float("nan")))
    with pytest.raises(InvalidInput):
        connection.reply_error(request.ref, RpcError(1, "\ud800"))
    connection.reply_error(request.ref, RpcError(500, "failed"))
    assert [frame["error"]["code"] for frame in frames(connection)] == [500]


# --- batches


def test_batch_is_answered_in_one_frame() -> None:
    """The answers to a batch wait for the last of them, in whatever order they are given."""
    connection = Connection()
    batch = [{"id": "a", "method": "M"}, {"method": "N"}, 1, {"id": "b", "method": "M"}, {"id": "c", "method": "M"}]
    *events, rejected = receive(connection, batch)
    assert isinstance(rejected, FrameRejected)
    assert [event.method for event in events] == ["M", "N", "M", "M"]
    refs = [event.ref for event in events if isinstance(event, RequestReceived)]
    for ref in (refs[2], refs[0]):
        connection.reply(ref, ref)
        assert frames(connection) == []
    connection.reply_error(refs[1], RpcError(5, "m"))
    [answers] = frames(connection)
    assert [answer["id"] for answer in answers] == [None, "c", "a", "b"]
    assert [answer.get("result") for answer in answers] == [None, refs[2], refs[0], None]
    assert [answer["error"]["code"] for answer in answers if "error" in answer] == [jsonrpc.INVALID_REQUEST, 5]


def test_two_batches_at_the_same_time() -> None:
    """Answers to different batches, and to single requests between them, are not mixed."""
    connection = Connection()
    events = receive(
        connection, *([{"id": f"{n}{m}", "method": "M"} for m in "ab"] for n in "12"), {"id": 3, "method": "M"}
    )
    refs = [event.ref for event in events if isinstance(event, RequestReceived)]
    for ref in (refs[0], refs[3], refs[4], refs[2], refs[1]):
        connection.reply(ref)
    one, second, first = frames(connection)
    assert one["id"] == 3
    assert [answer["id"] for answer in second] == ["2b", "2a"]
    assert [answer["id"] for answer in first] == ["1a", "1b"]


def test_batch_that_needs_no_answer() -> None:
    """A batch of notifications and of answers is not answered, not even by an empty batch."""
    connection = Connection()
    id = connection.call("M")
    connection.data_to_send()
    events = receive(connection, [{"method": "N"}, {"id": id, "result": 1}, {"id": 99, "result": 1}])
    assert events == [NotificationReceived("N", None), result(id, b"1")]
    assert frames(connection) == []


def test_batch_too_large_for_one_frame() -> None:
    """Where the answers to a batch exceed a frame together, they come in several; each of them is sent."""
    limits = ConnectionLimits(max_frame=1000)
    pair = ConnectionPair(Connection(limits), Connection(limits))
    pair.to_right.append(jsonrpc.dumps([{"id": f"x{n}", "method": "M"} for n in range(5)]))
    for request in pair.deliver_to_right():
        assert isinstance(request, RequestReceived)
        pair.right.reply(request.ref, "r" * 400)
    answers = pair.right.data_to_send()
    assert [len(jsonrpc.loads(frame)) for frame in answers] == [2, 2, 1]
    assert max(map(len, answers)) <= limits.max_frame
    assert [answer["id"] for frame in answers for answer in jsonrpc.loads(frame)] == [f"x{n}" for n in range(5)]


@pytest.mark.parametrize(("spare", "sizes"), [(0, [1000]), (1, [501, 501])])
def test_a_batch_fills_its_frame_to_the_last_byte(spare: int, sizes: list[int]) -> None:
    """Two answers that are a frame together, brackets and comma included, go in one; with one byte more, in two."""
    connection = Connection(ConnectionLimits(max_frame=1000))
    first, second = receive(connection, [{"id": 1, "method": "M"}, {"id": 2, "method": "M"}])
    around = len(jsonrpc.encode_result(b"1", b'""'))
    assert isinstance(first, RequestReceived)
    assert isinstance(second, RequestReceived)
    connection.reply(first.ref, "r" * (499 - around))
    connection.reply(second.ref, "r" * (498 + spare - around))
    frames_ = connection.data_to_send()
    assert [len(frame) for frame in frames_] == sizes
    assert [answer["id"] for frame in frames_ for answer in jsonrpc.loads(frame)] == [1, 2]


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (1, False)])
@pytest.mark.parametrize("batch", [False, True])
def test_largest_reply(batch: bool, spare: int, fits: bool) -> None:
    """A reply may fill a frame to the last byte; one byte more is `TooLarge`, and the request is still unanswered."""
    limits = ConnectionLimits(max_frame=1000)
    connection = Connection(limits)
    request = {"id": 1, "method": "M"}
    [event] = receive(connection, [request] if batch else request)
    assert isinstance(event, RequestReceived)
    around = len(jsonrpc.encode_result(b"1", b'""')) + (2 if batch else 0)
    value = "r" * (limits.max_frame - around + spare)
    if fits:
        connection.reply(event.ref, value)
        assert [len(frame) for frame in connection.data_to_send()] == [limits.max_frame]
    else:
        for _ in range(2):
            with pytest.raises(TooLarge, match="1001 bytes; at most 1000"):
                connection.reply(event.ref, value)
        with pytest.raises(TooLarge):
            connection.reply_error(event.ref, RpcError(1, value))
        connection.reply_error(event.ref, RpcError(413, "the result is too large"))
        assert len(frames(connection)) == 1


def test_an_error_always_fits() -> None:
    """The longest id and method that a peer can use leave room to tell it so."""
    connection = Connection(ConnectionLimits(max_frame=2048))
    id, method = "i" * (MAX_ID - 2), "M" * MAX_METHOD
    [event] = receive(connection, {"id": id, "method": method})
    assert isinstance(event, RequestReceived)
    connection.reply_error(event.ref, RpcError(jsonrpc.METHOD_NOT_FOUND, f"No handler for {event.method}"))
    assert [frame["id"] for frame in frames(connection)] == [id]


# --- time


def test_deadlines() -> None:
    """A call is given up when its deadline has come, the nearest first; an answer after that is ignored."""
    connection = Connection()
    assert connection.next_deadline() is None
    late = connection.call("Late", deadline=30.0)
    connection.call("Never")
    soon = connection.call("Soon", deadline=10.0)
    connection.data_to_send()
    assert connection.next_deadline() == 10.0
    connection.handle_timer(9.999)
    assert connection.events() == []
    connection.handle_timer(10.0)
    assert connection.events() == [CallTimedOut(soon, "Soon")]
    assert connection.next_deadline() == 30.0
    assert receive(connection, {"id": soon, "result": 1}, {"id": soon}) == []
    connection.handle_timer(1e9)
    connection.handle_timer(1e9)
    assert connection.events() == [CallTimedOut(late, "Late")]
    assert connection.next_deadline() is None
    assert frames(connection) == []


def test_deadlines_in_order() -> None:
    """Calls that are overdue together are given up in the order of their deadlines."""
    connection = Connection()
    for deadline in (3.0, 1.0, 2.0, 1.0):
        connection.call("M", deadline=deadline)
    connection.handle_timer(5.0)
    assert [event.id for event in connection.events() if isinstance(event, CallTimedOut)] == [2, 4, 3, 1]


@pytest.mark.parametrize("end", ["answer", "abandon", "close"])
def test_no_deadline_without_a_call(end: str) -> None:
    """A call that has ended leaves no deadline behind."""
    connection = Connection()
    id = connection.call("M", deadline=5.0)
    match end:
        case "answer":
            receive(connection, {"id": id, "result": 1})
        case "abandon":
            connection.abandon(id)
        case "close":
            connection.close()
    connection.events()
    assert connection.next_deadline() is None
    connection.handle_timer(6.0)
    assert connection.events() == []


# --- bounds: each field of ConnectionLimits, and what happens there

BOUNDS: dict[str, Callable[[], None]] = {}


def bound(test: Callable[[], None]) -> Callable[[], None]:
    BOUNDS[test.__name__] = test
    return test


@bound
def max_frame() -> None:
    """A larger frame is not sent; one that is received is rejected, and answered if it was a request."""
    connection = Connection(ConnectionLimits(max_frame=100))
    around = len(jsonrpc.encode_request("M", b'""', 1))
    with pytest.raises(TooLarge, match="101 bytes; at most 100"):
        connection.call("M", "x" * (101 - around))
    with pytest.raises(TooLarge):
        connection.notify("M", "x" * 100)
    assert connection.call("M", "x" * (100 - around)) == 1
    assert [len(frame) for frame in connection.data_to_send()] == [100]
    frame = b'{"method":"N"}'
    assert receive(connection, frame.ljust(100)) == [NotificationReceived("N", None)]
    [rejected] = rejections(receive(connection, frame.ljust(101)))
    assert (rejected.kind, rejected.size, rejected.number) == (TOO_LARGE, 101, 1)
    assert rejected.reason == "101 bytes; at most 100 are taken"
    assert frames(connection) == []
    assert len(receive(connection, b'{"id":"a","method":"M"}'.ljust(101))) == 1
    assert frames(connection) == [
        {"jsonrpc": "2.0", "id": "a", "error": {"code": 413, "message": "a frame of 101 bytes; at most 100 are taken"}}
    ]


@bound
def max_answer() -> None:
    """Only an answer may be larger than `max_frame`; one beyond `max_answer` ends its call, and only that."""
    limits = ConnectionLimits(max_frame=100, max_answer=200)
    assert limits.max_message == 200
    connection = Connection(limits)
    first, second = connection.call("M"), connection.call("M")
    frames(connection)
    assert receive(connection, b'{"id":1,"result":1}'.ljust(200)) == [result(first, b"1")]
    assert len(rejections(receive(connection, b'{"method":"M"}'.ljust(101)))) == 1
    third = connection.call("M")
    answer, rejected = receive(connection, b'{"id":3,"result":"%b"}' % (b"x" * 200))
    assert isinstance(answer, ResponseReceived)
    assert isinstance(answer.error, AnswerTooLarge)
    assert (answer.id, answer.error.size, answer.error.limit) == (third, 220, 200)
    assert isinstance(rejected, FrameRejected)
    assert receive(connection, {"id": second, "result": 1}) == [result(second, b"1")]


@bound
def max_corrections() -> None:
    """So many frames that cannot be read are answered; then none is, and requests still are."""
    connection = Connection(ConnectionLimits(max_corrections=2))
    events = rejections(receive(connection, b"{", b"[1,1]", b"{", 7, [], {"method": 3, "id": 4}))
    assert [event.number for event in events] == [1, 2, 3, 4, 5, 6]
    assert len(frames(connection)) == 2
    [request] = receive(connection, {"id": 5, "method": "M"})
    assert isinstance(request, RequestReceived)
    connection.reply(request.ref, True)
    assert len(frames(connection)) == 1


@pytest.mark.parametrize(
    "garbage",
    [{"id": "abc"}, {"id": None}, {"id": 99999}, {"jsonrpc": "2.0", "id": 7, "x": 1}, [{"id": 8}, {"id": 9}], {}],
    ids=str,
)
def test_what_is_neither_request_nor_answer_is_rejected(garbage: object) -> None:
    """JSON without a method whose id no call has had: it is told each time, once a frame, and answered only at first.
    An id that a call has had is that of a late answer.
    """
    connection = Connection(ConnectionLimits(max_corrections=2))
    connection.call("M")
    events = rejections(receive(connection, *[garbage] * 5))
    assert [event.number for event in events] == [1, 2, 3, 4, 5]
    assert {event.kind for event in events} == {"not-json-rpc"}
    assert len(frames(connection)) == 1 + 2
    connection.abandon(1)
    assert receive(connection, {"id": 1}, {"id": 1}) == []
    assert receive(connection, {"id": 99999, "result": 1}, {"id": "x", "error": {}}) == []
    assert len(frames(connection)) == 0


@bound
def max_calls() -> None:
    """More calls at the same time are `Busy`; there is room again after an answer, a time-out or an abandonment."""
    connection = Connection(ConnectionLimits(max_calls=3))
    calls = [connection.call("M", deadline=float(n)) for n in range(3)]
    ends: tuple[Callable[[], object], ...] = (
        lambda: connection.handle_timer(0.0),
        lambda: connection.abandon(calls[1]),
        lambda: connection.receive_data(b'{"id":3,"result":1}'),
    )
    for end in ends:
        with pytest.raises(Busy, match="3 calls are waiting"):
            connection.call("M")
        connection.notify("N")  # needs no answer
        end()
        connection.call("M")


@bound
def max_requests() -> None:
    """More unanswered requests are answered with error 429, also in a batch; notifications still pass."""
    connection = Connection(ConnectionLimits(max_requests=2))
    request = {"id": 5, "method": "M"}
    first, second, notification = receive(connection, request, [request, request], {"method": "N"}, request)
    assert isinstance(first, RequestReceived)
    assert isinstance(second, RequestReceived)
    assert isinstance(notification, NotificationReceived)
    [refused] = frames(connection)
    assert refused["error"]["code"] == TOO_MANY_REQUESTS
    connection.reply(second.ref, True)
    [[refused, answered]] = frames(connection)
    assert refused["error"]["code"] == TOO_MANY_REQUESTS
    assert answered["result"] is True
    assert len(receive(connection, request)) == 1


@bound
def max_events() -> None:
    """Events that are not taken close the connection; all events until then are still returned, and no call is lost."""
    connection = Connection(ConnectionLimits(max_events=2))
    calls = [connection.call("M") for _ in range(2)]
    receive_one = connection.receive_data
    receive_one(b'{"method":"N"}')
    receive_one(b'{"id":1,"result":1}')
    with pytest.raises(RemoteProtocolError, match="more than 2 events"):
        receive_one(b'{"id":2,"result":2}')
    *_, closed = events = connection.events()
    assert events[:2] == [NotificationReceived("N", None), result(calls[0], b"1")]
    assert closed == ConnectionClosed("more than 2 events were not taken", (calls[1],))


@bound
def max_outbox() -> None:
    """With a full outbox calls raise `Busy`, and a peer that requests answers is cut off; notifications are taken."""
    connection = Connection(ConnectionLimits(max_outbox=100))
    id = connection.call("M", "x" * 100)
    for out in (connection.call, connection.notify):
        with pytest.raises(Busy, match="does not read"):
            out("M")
    taken = receive(connection, {"id": id, "result": 1}, {"method": "N"}, {"id": 77, "result": 1}, {"error": {}})
    assert taken == [result(id, b"1"), NotificationReceived("N", None)]
    for wanting in (b'{"id":1,"method":"M"}', b"garbage", b'[{"id":1,"method":"M"}]', b"[1]", b'{"id":"?"}'):
        twin = Connection(ConnectionLimits(max_outbox=100))
        twin.call("M", "x" * 100)
        with pytest.raises(RemoteProtocolError, match="does not read the answers"):
            twin.receive_data(wanting)
        assert twin.closed
    assert len(connection.data_to_send()) == 1
    connection.call("M")


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(ConnectionLimits)])
def test_bound(name: str) -> None:
    """Every bound of a connection does what it says."""
    BOUNDS[name]()


def test_a_flood_of_requests_stays_in_memory_bounds() -> None:
    """A peer that sends requests for large answers and never reads is cut off near the bound of the outbox."""
    limits = ConnectionLimits()
    connection = Connection(limits)
    flood = jsonrpc.dumps([{"id": n, "method": "M"} for n in range(3)])
    answered = 0
    while not connection.closed:
        assert answered < 2 * limits.max_outbox
        for event in connection.events():
            assert isinstance(event, RequestReceived)
            connection.reply(event.ref, "x" * 100_000)
            answered += 100_000
        try:
            connection.receive_data(flood)
        except RemoteProtocolError:
            pass
    assert connection.events()[-1] == ConnectionClosed("the peer sends requests and does not read the answers", ())
    assert answered > limits.max_outbox


def test_timer_with_a_full_inbox() -> None:
    """A call whose time-out finds no room among the events is named by ConnectionClosed instead."""
    connection = Connection(ConnectionLimits(max_events=1))
    calls = [connection.call("M", deadline=1.0) for _ in range(3)]
    with pytest.raises(RemoteProtocolError):
        connection.handle_timer(1.0)
    timed_out, closed = connection.events()
    assert timed_out == CallTimedOut(calls[0], "M")
    assert isinstance(closed, ConnectionClosed)
    assert closed.calls == tuple(calls[1:])


def test_deadlines_of_answered_calls_do_not_pile_up() -> None:
    """A million quick calls with a long deadline leave no million deadlines."""
    connection = Connection(ConnectionLimits(max_calls=4))
    waiting = connection.call("Waiting", deadline=1e6)
    for n in range(1000):
        receive(connection, {"id": connection.call("M", deadline=1e5 + n), "result": n})
        connection.data_to_send()
    assert len(connection._deadlines) <= 8
    connection.handle_timer(2e6)
    assert connection.events() == [CallTimedOut(waiting, "Waiting")]


# --- the end


def test_close_with_calls_pending() -> None:
    """Closing tells once, at last, why, and which calls will never be answered; what was to be sent may still go."""
    connection = Connection()
    receive(connection, {"id": 1, "method": "M"})
    calls = (connection.call("A"), connection.call("B", deadline=1.0))
    connection.receive_data(b'{"method":"N"}')
    connection.close("device deleted")
    connection.close("again")
    assert connection.closed
    assert connection.events() == [NotificationReceived("N", None), ConnectionClosed("device deleted", calls)]
    assert len(connection.data_to_send()) == 2


def test_use_after_close() -> None:
    """A closed connection refuses to call, and ignores what comes late from either side."""
    connection = Connection()
    [request] = receive(connection, {"id": 1, "method": "M"})
    assert isinstance(request, RequestReceived)
    id = connection.call("M", deadline=1.0)
    connection.close()
    connection.events()
    connection.data_to_send()
    for out in (connection.call, connection.notify):
        with pytest.raises(LocalProtocolError, match="closed"):
            out("M")
    connection.reply(request.ref, 1)
    connection.reply_error(request.ref, RpcError(1, "m"))
    connection.abandon(id)
    connection.handle_timer(2.0)
    assert receive(connection, {"id": id, "result": 1}, {"id": 2, "method": "M"}, b"garbage", b"x" * 2**20) == []
    assert (connection.data_to_send(), connection.next_deadline()) == ([], None)


def test_close_with_a_batch_half_answered() -> None:
    """The answers that a batch still waits for are dropped with the connection."""
    connection = Connection()
    events = receive(connection, [{"id": n, "method": "M"} for n in range(2)])
    refs = [event.ref for event in events if isinstance(event, RequestReceived)]
    connection.reply(refs[0])
    connection.close()
    connection.reply(refs[1])
    assert connection.data_to_send() == []


# --- laws

ANY_TEXT = st.text(st.characters(), max_size=5)  # with lone surrogates, which `st.text()` leaves out
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(-1, 12) | st.sampled_from(["1", "2", "x"]) | ANY_JSON,
        "method": st.sampled_from(["M", ""]) | ANY_JSON,
        "params": ANY_JSON,
        "result": ANY_JSON,
        "error": st.fixed_dictionaries({}, optional={"code": ANY_JSON, "message": ANY_JSON}) | ANY_JSON,
        "nr": st.booleans(),
    },
)
LIKE_FRAMES = (MESSAGES | st.lists(MESSAGES | ANY_JSON, max_size=5)).map(lambda value: json_bytes(value))
ANY_FRAMES = st.binary(max_size=50) | ANY_TEXT | LIKE_FRAMES


def json_bytes(value: Any) -> bytes:
    """JSON, also of text with lone surrogates, which become no valid UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@given(st.lists(ANY_FRAMES, max_size=10), st.integers(0, 3), st.builds(ConnectionLimits, max_frame=st.just(200)))
def test_any_bytes(received: list[bytes | str], calls: int, limits: ConnectionLimits) -> None:
    """Whatever arrives gives events, an answer, or `RemoteProtocolError`, after which the connection is closed."""
    connection = Connection(limits)
    for _ in range(calls):
        connection.call("M")
    connection.data_to_send()
    for frame in received:
        try:
            connection.receive_data(frame)
        except RemoteProtocolError:
            assert connection.closed
        for event in connection.events():
            assert isinstance(event, Event)
            if isinstance(event, RequestReceived):
                connection.reply(event.ref)
        for answer in connection.data_to_send():
            value = jsonrpc.loads(answer)
            for member in value if isinstance(value, list) else [value]:
                assert member["jsonrpc"] == "2.0"
                assert ("result" in member) != ("error" in member)


@given(st.lists(ANY_FRAMES, max_size=6), st.lists(ANY_FRAMES, max_size=6))
def test_garbage_never_goes_to_and_fro(to_left: list[bytes | str], to_right: list[bytes | str]) -> None:
    """Two ends that get anything at all fall silent: what one says about garbage is no garbage to the other."""
    pair = ConnectionPair()
    for connection, received in ((pair.left, to_left), (pair.right, to_right)):
        for frame in received:
            connection.receive_data(frame)
    for request in pair.left.events():
        if isinstance(request, RequestReceived):
            pair.left.reply_error(request.ref, RpcError(404, "No handler"))
    pair.pump()  # AssertionError, if it does not end
    assert pair.left.data_to_send() == pair.right.data_to_send() == []


NOISE = [
    b"",
    b"\xff\xfe",
    b"{",
    b"[]",
    b"[1,{}]",
    b"7",
    b'{"id":"x"}',
    b'{"id":"x","method":7}',
    b'{"id":"x","result":1}',
    b'{"id":4711,"result":1}',
    b'{"error":{"code":-32600,"message":"?"}}',
    b'{"id":null,"error":5}',
    b'{"id":"stranger","method":"Stranger"}',
    b'[{"id":"stranger","method":"Stranger"},{"id":"stranger","method":"Stranger"},2]',
]
SMALL = ConnectionLimits(max_calls=6, max_requests=3)
ENDS = st.sampled_from(["left", "right"])


@attrs.define
class Side:
    """What the model knows of one end."""

    connection: Connection
    waiting: dict[int, tuple[int, float | None]] = attrs.Factory(dict)
    """Calls to be answered, by id: their token and deadline."""
    asked: list[tuple[int, int | None]] = attrs.Factory(list)
    """Requests to answer: ref, and the token that came with it, or None from a stranger."""
    told: list[int] = attrs.Factory(list)
    """Tokens of notifications that the other end sent, not yet received."""
    dead: set[int] = attrs.Factory(set)
    """Calls that were abandoned or timed out: nothing more may be heard of them."""


class HttpConnection(RuleBasedStateMachine):
    """Two ends talk, in any order and with any delay, while strangers shout on the line."""

    @initialize()
    def connect(self) -> None:
        self.pair = ConnectionPair(Connection(SMALL), Connection(SMALL))
        self.left, self.right = Side(self.pair.left), Side(self.pair.right)
        self.now = 0.0
        self.tokens = 0
        self.answers: dict[int, int | None] = {}  # by token: the error code that was answered, or None

    def ends(self, end: str) -> tuple[Side, Side]:
        return (self.left, self.right) if end == "left" else (self.right, self.left)

    def token(self) -> int:
        self.tokens += 1
        return self.tokens

    @rule(end=ENDS, patience=st.none() | st.integers(0, 5))
    def call(self, end: str, patience: int | None) -> None:
        side, _ = self.ends(end)
        deadline = None if patience is None else self.now + patience
        token = self.token()
        try:
            id = side.connection.call(f"Method.{token}", [token], deadline=deadline)
        except Busy:
            assert len(side.waiting) == SMALL.max_calls
            return
        assert id not in side.waiting
        assert id not in side.dead
        side.waiting[id] = (token, deadline)

    @rule(end=ENDS)
    def notify(self, end: str) -> None:
        side, other = self.ends(end)
        token = self.token()
        side.connection.notify("Tell", [token])
        other.told.append(token)

    @rule(end=ENDS, frames=st.integers(1, 3))
    def deliver(self, end: str, frames: int) -> None:
        side, _ = self.ends(end)
        deliver = self.pair.deliver_to_left if end == "left" else self.pair.deliver_to_right
        self.take(side, deliver(frames))

    @rule(end=ENDS, which=st.integers(0, 5), code=st.none() | st.integers(400, 405))
    def answer(self, end: str, which: int, code: int | None) -> None:
        side, _ = self.ends(end)
        if not side.asked:
            return
        ref, token = side.asked.pop(which % len(side.asked))
        if token is not None:
            assert token not in self.answers
            self.answers[token] = code
        if code is None:
            side.connection.reply(ref, {"token": token})
        else:
            side.connection.reply_error(ref, RpcError(code, f"no {token}"))

    @rule(end=ENDS, which=st.integers(0, 5))
    def abandon(self, end: str, which: int) -> None:
        side, _ = self.ends(end)
        if side.waiting:
            id = sorted(side.waiting)[which % len(side.waiting)]
            side.connection.abandon(id)
            del side.waiting[id]
            side.dead.add(id)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        for side in (self.left, self.right):
            side.connection.handle_timer(self.now)
            self.take(side, side.connection.events())
            assert all(deadline is None or deadline > self.now for _, deadline in side.waiting.values())

    @rule(end=ENDS, noise=st.sampled_from(NOISE))
    def shout(self, end: str, noise: bytes) -> None:
        side, _ = self.ends(end)
        side.connection.receive_data(noise)
        self.take(side, side.connection.events())

    def take(self, side: Side, events: list[Event]) -> None:
        for event in events:
            match event:
                case RequestReceived(ref, "Stranger"):
                    side.asked.append((ref, None))
                case RequestReceived(ref, method, params):
                    [token] = jsonrpc.loads(params or b"")
                    assert method == f"Method.{token}"
                    side.asked.append((ref, token))
                case NotificationReceived("Tell", params):
                    assert jsonrpc.loads(params or b"") == [side.told.pop(0)]
                case ResponseReceived(id, method, value, error):
                    token, _ = side.waiting.pop(id)
                    assert method == f"Method.{token}"
                    code = error.code if isinstance(error, RpcError) else None
                    if code == TOO_MANY_REQUESTS:
                        assert token not in self.answers
                    else:
                        assert code == self.answers[token]
                        assert code is not None or jsonrpc.loads(value) == {"token": token}
                case FrameRejected(kind):
                    assert kind in (NOT_JSON, NOT_JSON_RPC)
                case CallTimedOut(id):
                    _, deadline = side.waiting.pop(id)
                    assert deadline is not None
                    assert deadline <= self.now
                    side.dead.add(id)
                case _:
                    raise AssertionError(f"out of place: {event}")

    @invariant()
    def the_model_and_the_ends_agree(self) -> None:
        for side in (self.left, self.right):
            deadlines = [deadline for _, deadline in side.waiting.values() if deadline is not None]
            assert side.connection.next_deadline() == (min(deadlines) if deadlines else None)
            assert len(side.asked) <= SMALL.max_requests
            assert not side.connection.closed

    def teardown(self) -> None:
        """Once everything is delivered and answered, no call waits, and nothing is left to say."""
        if not hasattr(self, "pair"):
            return
        for _ in range(4):  # deliver requests, answer them, deliver the answers
            for side, events in zip((self.left, self.right), self.pair.pump(), strict=True):
                self.take(side, events)
            for end in ("left", "right"):
                while self.ends(end)[0].asked:
                    self.answer(end, 0, None)
        assert not self.left.waiting
        assert not self.right.waiting
        assert not self.left.told
        assert not self.right.told
        assert self.pair.pump() == ([], [])


TestConversation = HttpConnection.TestCase
TestConversation.settings = settings(stateful_step_count=60)
