"""JSON-RPC 2.0 as the specification has it, and the dialect of Mongoose OS."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mdashcore import _json, jsonrpc
from mdashcore._connection import Connection
from mdashcore._decoding import MAX_BATCH
from mdashcore._errors import InvalidInput
from mdashcore._events import FrameRejected, NotificationReceived, RequestReceived, ResponseReceived
from mdashcore.jsonrpc import ErrorObject, Invalid, Request, Response
from mdashcore.testing import ConnectionPair

# --- the specification's own examples (section 7)


def _subtract(params: Any) -> Any:
    return params["minuend"] - params["subtrahend"] if isinstance(params, dict) else params[0] - params[1]


METHODS: dict[str, Any] = {
    "subtract": _subtract,
    "sum": sum,
    "get_data": lambda params: ["hello", 5],
    "update": None,  # methods that the examples only notify
    "notify_hello": None,
}


def serve(text: str) -> list[Any]:
    """What a server with the examples' methods answers to one text: the frames, as values."""
    server = Connection()
    server.receive_data(text)
    for event in server.events():
        match event:
            case RequestReceived(ref, method, params) if METHODS.get(method) is not None:
                server.reply(ref, METHODS[method](None if params is None else jsonrpc.loads(params)))
            case RequestReceived(ref):
                server.reply_error(ref, ErrorObject(jsonrpc.METHOD_NOT_FOUND, "Method not found"))
            case NotificationReceived() | FrameRejected():
                pass
            case _:
                pytest.fail(f"no example makes {event}")
    return [jsonrpc.loads(frame) for frame in server.data_to_send()]


SPECIFICATION = [
    pytest.param(
        '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
        '{"jsonrpc": "2.0", "result": 19, "id": 1}',
        id="positional parameters",
    ),
    pytest.param(
        '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
        '{"jsonrpc": "2.0", "result": -19, "id": 2}',
        id="positional parameters, swapped",
    ),
    pytest.param(
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
        '{"jsonrpc": "2.0", "result": 19, "id": 3}',
        id="named parameters",
    ),
    pytest.param(
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
        '{"jsonrpc": "2.0", "result": 19, "id": 4}',
        id="named parameters, swapped",
    ),
    pytest.param('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None, id="a notification"),
    pytest.param('{"jsonrpc": "2.0", "method": "foobar"}', None, id="a notification without parameters"),
    pytest.param(
        '{"jsonrpc": "2.0", "method": "foobar", "id": "1"}',
        '{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}',
        id="a method that does not exist",
    ),
    pytest.param(
        '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
        '{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}',
        id="invalid JSON",
    ),
    pytest.param(
        '{"jsonrpc": "2.0", "method": 1, "params": "bar"}',
        '{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}',
        id="an invalid request",
    ),
    pytest.param(
        """[
          {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
          {"jsonrpc": "2.0", "method"
        ]""",
        '{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}',
        id="a batch that is invalid JSON",
    ),
    pytest.param(
        "[]",
        '{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}',
        id="an empty batch",
    ),
    pytest.param(
        "[1]",
        '[{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}]',
        id="an invalid batch, not empty",
    ),
    pytest.param(
        "[1,2,3]",
        """[
          {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
          {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
          {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}
        ]""",
        id="an invalid batch",
    ),
    pytest.param(
        """[
          {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
          {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
          {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
          {"foo": "boo"},
          {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
          {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
        ]""",
        """[
          {"jsonrpc": "2.0", "result": 7, "id": "1"},
          {"jsonrpc": "2.0", "result": 19, "id": "2"},
          {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
          {"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "5"},
          {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"}
        ]""",
        id="a batch",
    ),
    pytest.param(
        """[
          {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
          {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
        ]""",
        None,
        id="a batch of notifications",
    ),
]


def comparable(answer: Any) -> Any:
    """An answer without what is ours to choose: the order within a batch, and what a message adds after a colon."""
    if isinstance(answer, list):
        return sorted((comparable(member) for member in answer), key=lambda member: json.dumps(member, sort_keys=True))
    if "error" in answer:
        answer["error"]["message"] = answer["error"]["message"].partition(":")[0]
    return answer


@pytest.mark.parametrize(("text", "answer"), SPECIFICATION)
def test_specification(text: str, answer: str | None) -> None:
    """Each example of section 7 is answered as it is there."""
    answers = [comparable(frame) for frame in serve(text)]
    assert answers == ([] if answer is None else [comparable(json.loads(answer))])


# --- the dialect of Mongoose OS: a text, and the message that it is

DIALECT = [
    pytest.param(
        b'{"id":1912345,"src":"esp32_0A1B2C","tag":"t","method":"Dash.Shadow.Get"}',
        Request("Dash.Shadow.Get", None, b"1912345"),
        id="no jsonrpc, and members that are nobody's business",
    ),
    pytest.param(
        b'{"v":2,"src":"esp32_0A1B2C","dst":"//api.cesanta.com/d/d1","method":"Log","params":{"fd":1}}',
        Request("Log", b'{"fd":1}'),
        id="a notification with an address",
    ),
    pytest.param(b'{"method":"Log","args":{"fd":1}}', Request("Log", b'{"fd":1}'), id="args for params"),
    pytest.param(b'{"method":"M","args":[1],"params":[2]}', Request("M", b"[2]"), id="params before args"),
    pytest.param(b'{"id":5,"nr":true,"method":"M"}', Request("M"), id="nr: no reply wanted"),
    pytest.param(b'{"id":5,"nr":false,"method":"M"}', Request("M", None, b"5"), id="nr: reply wanted"),
    pytest.param(b'{"id":5,"nr":1,"method":"M"}', Request("M", None, b"5"), id="nr: only true is true"),
    pytest.param(b'{"method":"M"}\n', Request("M"), id="a newline after the frame"),
    pytest.param(b' \t\r\n{ "method" : "M" } ', Request("M"), id="space around everything"),
    pytest.param(b'{"\\u006dethod":"M"}', Request("M"), id="an escaped member name"),
    pytest.param(b'{"method":"A","method":"B"}', Request("B"), id="a member twice: the last counts"),
    pytest.param(b'{"method":"M","params":"text"}', Request("M", b'"text"'), id="params: a string"),
    pytest.param(b'{"method":"M","params":null}', Request("M", b"null"), id="params: null"),
    pytest.param(b'{"method":"M","params":7,"id":"a-1"}', Request("M", b"7", b'"a-1"'), id="params: a number"),
    pytest.param(b'{"method":"M","id":null}', Request("M", None, b"null"), id="an id that is null is an id"),
    pytest.param(b'{"method":"M","id":1.50}', Request("M", None, b"1.50"), id="an id as it was written"),
    pytest.param(b'{"method":""}', Request(""), id="a method without a name"),
    pytest.param(b'{"id":7,"src":"d","tag":"t","result":{"a":1}}', Response(b"7", b'{"a":1}'), id="a result"),
    pytest.param(b'{"id":7,"result":null}', Response(b"7", b"null"), id="a result that is null"),
    pytest.param(b'{"id":7}', Response(b"7"), id="a result left out"),
    pytest.param(b'{"id":"7","result":true}', Response(b'"7"', b"true"), id="an id made a string"),
    pytest.param(b'{"id":7,"result":1,"error":null}', Response(b"7", b"1"), id="an error that is null"),
    pytest.param(b'{"id":7,"error":null}', Response(b"7", b"null"), id="an error that is null, and no result"),
    pytest.param(
        b'{"id":7,"src":"d","error":{"code":404,"message":"No handler for X"}}',
        Response(b"7", error=ErrorObject(404, "No handler for X")),
        id="an error in the style of HTTP",
    ),
    pytest.param(
        b'{"id":7,"result":null,"error":{"code":-1,"message":"no"}}',
        Response(b"7", error=ErrorObject(-1, "no")),
        id="an error beside a null result",
    ),
    pytest.param(
        b'{"error":{"code":-32601,"message":"Method not found"}}',
        Response(None, error=ErrorObject(-32601, "Method not found")),
        id="an error without id",
    ),
    pytest.param(
        b'[{"method":"A"},{"id":1,"result":2}]', [Request("A"), Response(b"1", b"2")], id="a batch of both kinds"
    ),
]


@pytest.mark.parametrize(("text", "message"), DIALECT)
def test_dialect(text: bytes, message: Any) -> None:
    """What real devices send is understood."""
    assert jsonrpc.decode(text) == message


ANSWERS = [
    pytest.param(b'{"id":1,"src":"d","tag":"x","result":{"uptime":5}}', (b'{"uptime":5}', None), id="result"),
    pytest.param(b'{"id":"1","result":5}', (b"5", None), id="the id comes back quoted"),
    pytest.param(b'{"id":1,"result":null}', (b"null", None), id="null"),
    pytest.param(b'{"id":1}', (b"null", None), id="nothing but the id"),
    pytest.param(b'{"id":1,"error":{"code":404,"message":"No handler for X"}}', (b"null", 404), id="404"),
    pytest.param(b'{"id":1,"error":{"code":-1}}\n', (b"null", -1), id="no message, and a newline"),
    pytest.param(b'{"error":{"code":-32700,"message":"bad"}}', None, id="no id"),
    pytest.param(b'{"id":null,"error":{"code":-32700,"message":"bad"}}', None, id="a null id"),
    pytest.param(b'{"id":"x1","result":5}', None, id="an id that was never given"),
    pytest.param(b'{"id":2,"result":5}', None, id="an id not given yet"),
    pytest.param(b'{"id":0,"result":5}', None, id="zero"),
    pytest.param(b'{"id":-1,"result":5}', None, id="a negative id"),
    pytest.param(b'{"id":' + b"1" * 200 + b',"result":5}', None, id="a number of 200 digits"),
    pytest.param(b'{"id":"","result":5}', None, id="an empty id"),
]


@pytest.mark.parametrize(("frame", "answer"), ANSWERS)
def test_answers_of_devices(frame: bytes, answer: tuple[bytes, int | None] | None) -> None:
    """A call is answered by what a device sends as its answer, and by nothing else; nothing is sent back."""
    connection = Connection()
    connection.call("Sys.GetInfo")
    connection.data_to_send()
    connection.receive_data(frame)
    got = [(event.result, getattr(event.error, "code", None)) for event in connection.events()]
    assert got == ([] if answer is None else [answer])
    assert connection.data_to_send() == []


def test_pieces_of_a_frame() -> None:
    """A build that sends every piece of a JSON text as a frame gets a parse error for each, and stays connected."""
    connection = Connection()
    for piece in (b'{"method":', b'"Log"', b',"params":', b'{"fd":1', b"}", b"}"):
        connection.receive_data(piece)
    codes = [jsonrpc.loads(frame)["error"]["code"] for frame in connection.data_to_send()]
    parse_error, invalid = jsonrpc.PARSE_ERROR, jsonrpc.INVALID_REQUEST  # '"Log"' alone is JSON, and no message
    assert codes == [parse_error, invalid, parse_error, parse_error, parse_error, parse_error]
    connection.receive_data(b'{"id":3,"method":"M"}')
    *rejected, request = connection.events()
    assert [event.kind for event in rejected] == ["not-json", "not-json-rpc", *["not-json"] * 4]
    assert request == RequestReceived(1, "M", None)


# --- what is no message

INVALID = [
    pytest.param(b"", -32700, None, id="nothing"),
    pytest.param(b"\n", -32700, None, id="a newline alone"),
    pytest.param(b'{"method":"M"', -32700, None, id="cut off"),
    pytest.param(b'{"method":"M"}}', -32700, None, id="one bracket too many"),
    pytest.param(b'{"method":1} x', -32700, None, id="a wrong type before a syntax error"),
    pytest.param(b"7 7", -32700, None, id="two values"),
    pytest.param(b'\xef\xbb\xbf{"method":"M"}', -32700, None, id="a byte order mark"),
    pytest.param(b'{"method":"M","params":"\xff"}', -32700, None, id="bad UTF-8 in params"),
    pytest.param(b'{"method":"M","x":"\xed\xa0\x80"}', -32700, None, id="a surrogate in UTF-8, where nobody looks"),
    pytest.param(b'{"method":"M","params":"\\ud800"}', -32700, None, id="half a surrogate pair"),
    pytest.param(b'{"method":"M","params":NaN}', -32700, None, id="NaN"),
    pytest.param(b'{"method":"M","params":[-Infinity]}', -32700, None, id="infinity"),
    pytest.param(b'{"method":"M","params":01}', -32700, None, id="a leading zero"),
    pytest.param(b'{"method":"M","params":"\t"}', -32700, None, id="a control character"),
    pytest.param(b"{'method':'M'}", -32700, None, id="single quotes"),
    pytest.param(b'{"method":"M","params":[1,]}', -32700, None, id="a comma too many"),
    pytest.param(b'{"id":nul,"method":"M"}', -32700, None, id="half a null"),
    pytest.param(b"7", -32600, None, id="a number"),
    pytest.param(b"null", -32600, None, id="null"),
    pytest.param(b'"text"', -32600, None, id="a string"),
    pytest.param(b"{}", -32600, None, id="an empty object"),
    pytest.param(b'{"method":null,"id":4}', -32600, b"4", id="a method that is null"),
    pytest.param(b'{"method":["M"],"id":"a"}', -32600, b'"a"', id="a method that is a list"),
    pytest.param(b'{"method":1,"id":1e999,"params":1e999}', -32600, b"1e999", id="numbers that no float holds"),
    pytest.param(b'{"method":1,"id":[4]}', -32600, None, id="a wrong method, and a wrong id"),
    pytest.param(b'{"method":"M","id":true}', -32600, None, id="an id that is true"),
    pytest.param(b'{"method":"M","id":{}}', -32600, None, id="an id that is an object"),
    pytest.param(b'{"method":"M","id":"' + b"x" * 256 + b'"}', -32600, None, id="an id that no answer has room for"),
    pytest.param(b'{"method":"' + b"M" * 257 + b'","id":1}', -32600, b"1", id="a method of 257 characters"),
    pytest.param(b" [ ] ", -32600, None, id="an empty batch"),
    pytest.param(b"[" + b"1," * 100 + b"1]", -32600, None, id="a batch of 101"),
]


@pytest.mark.parametrize(("text", "code", "id"), INVALID)
def test_invalid(text: bytes, code: int, id: bytes | None) -> None:
    """What is no message is named by the specification's code, with its id where it has a usable one."""
    message = jsonrpc.decode(text)
    assert isinstance(message, Invalid)
    assert (message.error.code, message.id) == (code, id)
    assert isinstance(jsonrpc.decode(jsonrpc.encode_error(message.id, message.error)), Response)


def test_batch_members_stand_alone() -> None:
    """A member of a batch that is no message, even a batch itself, takes nothing from the others."""
    error = ErrorObject(jsonrpc.INVALID_REQUEST, "Invalid Request")
    invalid, request = Invalid(error, is_request=False), Invalid(error)
    text = b'[{"method":"M","params":1e999},[{"method":"A"}],{"method":2},"x",{"id":3,"method":"N"}]'
    expected = [Request("M", b"1e999"), invalid, request, invalid, Request("N", None, b"3")]
    assert jsonrpc.decode(text) == expected


def test_batch_of_the_largest_size() -> None:
    """A batch may have 100 members."""
    assert jsonrpc.decode(b"[" + b",".join([b'{"method":"M"}'] * 100) + b"]") == [Request("M")] * 100


@pytest.mark.parametrize(("levels", "fine"), [(_json.MAX_DEPTH - 1, True), (_json.MAX_DEPTH, False), (60_000, False)])
def test_depth(levels: int, fine: bool) -> None:
    """A frame may nest 64 levels, its own included; more is a parse error, however much more."""
    params = b"[" * levels + b"]" * levels
    message = jsonrpc.decode(b'{"method":"M","params":' + params + b"}")
    if fine:
        assert message == Request("M", params)
    else:
        assert message == Invalid(ErrorObject(jsonrpc.PARSE_ERROR, "Parse error: nested too deeply"))


def test_brackets_in_strings_are_no_depth() -> None:
    """Text full of brackets, quotes and backslashes nests nothing."""
    params = jsonrpc.dumps({'[{"\\': ['{[\\"' * 500, "\\" * 501, "[" * 1000]})
    assert jsonrpc.decode(b'{"method":"M","params":' + params + b"}") == Request("M", params)


@pytest.mark.parametrize(
    "unit", [b'\\"', b'"', b"\\", b'"\\', b"[]", b"[", b'"["', b"{}", b'[""', b"\\u"], ids=lambda unit: unit.decode()
)
@pytest.mark.parametrize("head", [b"[" * 65 + b'"', b'{"a":' * 20 + b"[[" * 30, b'"'])
def test_time_is_linear(head: bytes, unit: bytes) -> None:
    """The largest frame takes milliseconds, also where it is made to be searched again and again."""
    text = (head + unit * 2**17)[: 2**17]
    start = time.process_time()
    assert isinstance(jsonrpc.decode(text), Invalid)
    assert time.process_time() - start < 1  # measured 1 to 10 ms; a search that restarts takes 20 s


# --- errors

ERRORS = [
    pytest.param(b'{"code":404,"message":"No"}', ErrorObject(404, "No"), id="plain"),
    pytest.param(b'{"code":1,"message":"m","data":[ 1 ]}', ErrorObject(1, "m", b"[ 1 ]"), id="data as written"),
    pytest.param(b'{"code":1,"message":"m","data":null}', ErrorObject(1, "m", b"null"), id="data: null"),
    pytest.param(b'{"code":500}', ErrorObject(500, ""), id="no message"),
    pytest.param(b'{"message":"m"}', ErrorObject(-32000, "m"), id="no code"),
    pytest.param(b"{}", ErrorObject(-32000, ""), id="neither"),
    pytest.param(b'{"code":5.0,"message":"m"}', ErrorObject(5, "m"), id="a float for a code"),
    pytest.param(b'{"code":1e300,"message":"m"}', ErrorObject(int(1e300), "m"), id="a large float"),
    *(
        pytest.param(text, ErrorObject(-32000, text.decode()), id=text.decode()[:40])
        for text in (
            b'{"code":"404","message":"m"}',
            b'{"code":null,"message":"m"}',
            b'{"code":true,"message":"m"}',
            b'{"code":1,"message":null}',
            b'{"code":1,"message":{"text":"m"}}',
            b'{"code":1e999,"message":"m"}',
            b'{"code":' + b"9" * 5000 + b',"message":"m"}',
            b'"Method not found"',
            b"404",
            b"false",
            b"[404]",
        )
    ),
]


@pytest.mark.parametrize(("text", "error"), ERRORS)
def test_error_members(text: bytes, error: ErrorObject) -> None:
    """An error is passed on as it came, or as its text where it is malformed; it can be raised, and sent."""
    message = jsonrpc.decode(b'{"id":1,"error":' + text + b"}")
    assert message == Response(b"1", error=error)
    assert error.exception().code == error.code
    assert jsonrpc.decode(jsonrpc.encode_error(b"1", error)) == message


@pytest.mark.parametrize(
    ("data", "value"),
    [(None, None), (b'{"a": 1}', {"a": 1}), (b"null", None), (b"1e999", "1e999"), (b"[[1e999]]", "[[1e999]]")],
)
def test_error_data(data: bytes | None, value: object) -> None:
    """An error's data are its value, or its text where Python has no such value."""
    assert ErrorObject(1, "m", data).exception().data == value


# --- raw JSON

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@st.composite
def json_texts(draw: st.DrawFn) -> bytes:
    """A JSON text, written in one of the ways that it can be."""
    text = json.dumps(
        draw(JSON_VALUES),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 0, 2, "\t"])),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", "\t: ")])),
    )
    return text.encode()


@given(json_texts())
@example(b"1e999")
@example(b"-0.0")
@example(b"9" * 5000)
@example('"\u2028 \U0001f600 \\ud83d\\ude00 \\u0000 \x7f"'.encode())
def test_raw_json_passes_unchanged(raw: bytes) -> None:
    """Params and results arrive as they were written: spaces, escapes, and numbers of any size."""
    pair = ConnectionPair()
    id = pair.left.call("M", raw)
    pair.left.notify("N", raw)
    _, [request, notification] = pair.pump()
    assert request == RequestReceived(1, "M", raw)
    assert notification == NotificationReceived("N", raw)
    pair.right.reply(1, raw)
    assert pair.pump() == ([ResponseReceived(id, "M", raw, None)], [])


@given(JSON_VALUES)
def test_values_survive(value: Any) -> None:
    """A value that is sent is the value that is read: integers stay exact."""
    got = jsonrpc.loads(jsonrpc.to_raw(value))
    assert got == value
    assert json.dumps(got, sort_keys=True) == json.dumps(value, sort_keys=True)  # tells 1 from 1.0 and True


NO_JSON = [
    object(),
    float("nan"),
    {"a": [1, (2.0, float("inf"))]},
    [None, float("-inf")],
    "\ud800",
    {"\udfff": 1},
    {(1, 2): 3},
    10**5000,
]


@pytest.mark.parametrize("value", NO_JSON, ids=lambda value: type(value).__name__)
def test_values_without_json(value: object) -> None:
    """What JSON cannot hold is refused, never sent as something else: a NaN sent as null would delete a key."""
    with pytest.raises(InvalidInput, match="JSON"):
        jsonrpc.to_raw(value)


def test_circular_value() -> None:
    """A list that holds itself has no JSON form."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidInput, match="JSON"):
        jsonrpc.to_raw(circle)


@pytest.mark.parametrize("text", ["\ud800", '"\udfff"', b"\xff", b'"\xff"', b"", "nope", b"NaN", "[" * 65 + "]" * 65])
def test_loads_raises_one_error(text: Any) -> None:
    """What is not JSON is `InvalidInput`, whatever the reason, and bytes or text."""
    with pytest.raises(InvalidInput, match="JSON"):
        jsonrpc.loads(text)


# --- laws

TEXTS = st.text(max_size=20)
RAW = JSON_VALUES.map(jsonrpc.dumps)
ERROR_OBJECTS = st.builds(ErrorObject, st.integers(-(2**63), 2**63), TEXTS, st.none() | RAW)


@given(TEXTS, st.none() | RAW, st.none() | st.integers(min_value=0, max_value=2**53))
def test_requests_round_trip(method: str, params: bytes | None, id: int | None) -> None:
    """`decode` undoes `encode_request`."""
    expected = Request(method, params, None if id is None else b"%d" % id)
    assert jsonrpc.decode(jsonrpc.encode_request(method, params, id)) == expected


@given(st.lists(st.builds(Response, st.sampled_from([b"1", b'"a"', b"null", b"-1.5"]), RAW, st.none()), min_size=1))
def test_results_round_trip(responses: list[Response]) -> None:
    """`decode` undoes `encode_result`, and `encode_batch`."""
    parts = [jsonrpc.encode_result(response.id or b"null", response.result or b"null") for response in responses]
    assert [jsonrpc.decode(part) for part in parts] == responses
    assert jsonrpc.decode(jsonrpc.encode_batch(parts)) == responses


@given(ERROR_OBJECTS)
def test_errors_round_trip(error: ErrorObject) -> None:
    """`decode` undoes `encode_error`."""
    assert jsonrpc.decode(jsonrpc.encode_error(b"1", error)) == Response(b"1", error=error)


SEEDS = [param.values[0] for param in (*DIALECT, *INVALID, *ANSWERS)]
SEEDS += [param.values[0].encode() for param in SPECIFICATION]
FRAGMENTS = st.sampled_from(
    [
        *(
            b"{",
            b"}",
            b"[",
            b"]",
            b'"',
            b"\\",
            b",",
            b":",
            b"null",
            b"true",
            b"1",
            b"-",
            b".",
            b"e9",
            b" ",
            b"\n",
            b"\x00",
        ),
        *(
            b'"id"',
            b'"method":',
            b'"error":',
            b'"result":',
            b"\\ud800",
            b"\\u0000",
            b"\xff",
            b"\xed\xa0\x80",
            b"[" * 70,
        ),
    ]
)


@st.composite
def damaged_frames(draw: st.DrawFn) -> bytes:
    """A frame with bytes cut out, put in, or doubled."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        middle = draw(st.sampled_from([b"", text[start:end] * 2]) | FRAGMENTS | st.binary(max_size=4))
        text = text[:start] + middle + text[end:]
    return text


def is_json(raw: bytes) -> bool:
    """Whether the standard library, without its extensions, reads it; numbers unread, as they may be of any size."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(raw.decode(), parse_int=str, parse_float=str, parse_constant=refuse)
    except ValueError:
        return False
    return True


@given(st.binary(max_size=200) | damaged_frames() | json_texts())
def test_decode_never_raises(text: bytes) -> None:
    """Any bytes are one message, or 1 to 100 of them; every raw member is valid JSON; and only JSON is a message."""
    message = jsonrpc.decode(text)
    messages = message if isinstance(message, list) else [message]
    assert 1 <= len(messages) <= MAX_BATCH
    for each in messages:
        assert isinstance(each, Request | Response | Invalid)
        raw_members = [each.id, getattr(each, "params", None), getattr(each, "result", None)]
        raw_members.append(each.error.data if getattr(each, "error", None) is not None else None)  # type: ignore[union-attr]
        assert all(raw is None or is_json(raw) for raw in raw_members)
    parsed = not (isinstance(message, Invalid) and message.error.code == jsonrpc.PARSE_ERROR)
    assert not parsed or is_json(text)
