"""Misuse is loud: what an embedder gives by mistake is refused where it is given, and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import (
    Connection,
    InvalidInput,
    InvalidSetting,
    LocalProtocolError,
    RpcError,
    Shadow,
    Unauthenticated,
    identity,
    jsonrpc,
    ota,
    rollout,
)
from mdashcore.jsonrpc import ErrorObject

NO_JSON_VALUES = [
    *(bytearray(b"{}"), memoryview(b"{}"), {1, 2}, object(), nan, -inf, {"a": nan}, [inf], {1: 2}, {None: 1}),
    *({"data": b"raw"}, [bytearray(b"x")], {"a": {"b": ({"c": memoryview(b"x")},)}}, "\ud800", Ellipsis, {"a": ...}),
]

NO_JSON_BYTES = [b"", b"not json", b"{", b"{}{}", b"NaN", b'"\xff"', b"[" * 64 + b"]" * 64, b"\xef\xbb\xbf{}"]


def shown(value: object) -> str:
    """A value as a test's id, the same in every process."""
    return re.sub(r" at 0x\w+", "", repr(value))[:60]


def nested(levels: int) -> Any:
    """Lists in lists."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


WRONG_PARAMS = [*NO_JSON_VALUES, nested(64), *NO_JSON_BYTES]


@pytest.fixture
def asked() -> Connection:
    """A connection whose peer waits for the answer to request 1."""
    connection = Connection()
    connection.receive_data('{"id":7,"method":"M"}')
    return connection


@pytest.mark.parametrize("params", WRONG_PARAMS, ids=shown)
@pytest.mark.parametrize("verb", ["call", "notify"])
def test_params_that_are_no_json(verb: str, params: object) -> None:
    """Neither what has no JSON form, nor bytes that are no JSON, reach the peer, and no call waits."""
    connection = Connection()
    with pytest.raises(InvalidInput):
        getattr(connection, verb)("M", params)
    assert connection.data_to_send() == []
    connection.close()
    assert connection.events()[-1].calls == ()  # type: ignore[union-attr]
    assert connection.next_id == 1


@pytest.mark.parametrize("method", [b"M", None, 5, ["M"], "\ud800", "M" * 257, Connection], ids=shown)
@pytest.mark.parametrize("verb", ["call", "notify"])
def test_a_method_that_is_no_text(verb: str, method: Any) -> None:
    """Such as bytes, which would be taken as raw JSON, or a name that a peer of our kind refuses."""
    connection = Connection()
    with pytest.raises(InvalidInput):
        getattr(connection, verb)(method)
    assert not connection.has_data_to_send


@pytest.mark.parametrize("deadline", [nan, "5", b"5", True, [1]], ids=shown)
def test_a_deadline_that_is_no_time(deadline: Any) -> None:
    """It would never pass, or break the order of the others."""
    connection = Connection()
    with pytest.raises(InvalidInput):
        connection.call("M", deadline=deadline)
    with pytest.raises(InvalidInput):
        connection.handle_timer(deadline)
    assert connection.next_deadline() is None
    assert not connection.has_data_to_send


@pytest.mark.parametrize("result", WRONG_PARAMS, ids=shown)
def test_a_result_that_is_no_json(asked: Connection, result: object) -> None:
    """It is not sent, and the request can still be answered."""
    with pytest.raises(InvalidInput):
        asked.reply(1, result)
    asked.reply(1, {"ok": True})
    assert asked.data_to_send() == [b'{"jsonrpc":"2.0","id":7,"result":{"ok":true}}']


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("x"), "text", None, RpcError, RpcError("1", "x"), RpcError(True, "x"), RpcError(1.5, "x")),  # type: ignore[arg-type]
        *(RpcError(1, b"x"), RpcError(1, None), ErrorObject(1, 5)),  # type: ignore[arg-type]
        *(RpcError(1, "x", data) for data in (nan, bytearray(b"1"), b"not json", {1})),
        ErrorObject(1, "x", b"not json"),
    ],
    ids=shown,
)
def test_an_error_that_is_none(asked: Connection, error: Any) -> None:
    """It is not sent, and the request can still be answered."""
    with pytest.raises(InvalidInput):
        asked.reply_error(1, error)
    asked.reply_error(1, RpcError(404, "no", {"why": None}))
    assert asked.data_to_send() == [b'{"jsonrpc":"2.0","id":7,"error":{"code":404,"message":"no","data":{"why":null}}}']


@pytest.mark.parametrize("closed", [False, True])
def test_a_wrong_answer_is_loud_on_a_closed_connection_too(asked: Connection, closed: bool) -> None:
    """A mistake does not depend on what the peer does; a right answer that comes too late is ignored."""
    if closed:
        asked.close()
    with pytest.raises(InvalidInput):
        asked.reply(1, nan)
    with pytest.raises(InvalidInput):
        asked.reply_error(1, "no error")  # type: ignore[arg-type]
    asked.reply(1, 1)


@pytest.mark.parametrize("ref", [0, 2, "1", b"1", None, 1.5])
def test_an_answer_to_no_request(asked: Connection, ref: Any) -> None:
    """Said immediately."""
    with pytest.raises(LocalProtocolError):
        asked.reply(ref)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, bytes.decode])
def test_frames_in_every_form(kind: Callable[[bytes], Any]) -> None:
    """What a transport may hand over: bytes of any kind, and text. They are copied, so a buffer may be used again."""
    connection, text = Connection(), b'{"id":1,"method":"M","params":{"a":"\xc3\xa9"}}'
    frame = kind(text)
    connection.receive_data(frame)
    if isinstance(frame, bytearray):
        frame[:] = b"x" * len(frame)
    (event,) = connection.events()
    assert event.params == b'{"a":"\xc3\xa9"}'  # type: ignore[union-attr]
    assert jsonrpc.decode(kind(text)) == jsonrpc.decode(text)


@pytest.mark.parametrize("frame", [None, 5, ["{}"], {"method": "M"}, object()])
@pytest.mark.parametrize("closed", [False, True])
def test_frames_that_are_none(frame: Any, closed: bool) -> None:
    """A mistake of the transport is no message of the peer: nothing is answered."""
    connection = Connection()
    if closed:
        connection.close()
        connection.events()
    with pytest.raises(TypeError):
        connection.receive_data(frame)
    assert connection.events() == []
    assert not connection.has_data_to_send


@pytest.mark.parametrize("arguments", [{"limits": None}, {"limits": {}}, {"first_id": 0}, {"first_id": "1"}], ids=shown)
def test_a_connection_of_nonsense(arguments: dict[str, Any]) -> None:
    """Refused where it is made."""
    with pytest.raises(InvalidInput):
        Connection(**arguments)


# Framing


@pytest.mark.parametrize("value", [*NO_JSON_VALUES, nested(64), b"{}"], ids=shown)
def test_dumps_refuses_what_is_no_json(value: object) -> None:
    """NaN, which would become a null that deletes; bytes, which would become base64; keys that are no text."""
    with pytest.raises(InvalidInput):
        jsonrpc.dumps(value)


@given(st.recursive(st.none() | st.booleans() | st.integers(), lambda inner: st.lists(inner) | st.tuples(inner)))
def test_dumps_takes_all_that_is(value: object) -> None:
    """And `loads` gives it back, with lists for tuples."""
    assert jsonrpc.dumps(jsonrpc.loads(jsonrpc.dumps(value))) == jsonrpc.dumps(value)


def test_depth_is_the_same_for_values_and_raw_json() -> None:
    """As deep as a peer of our kind reads, with the frame around it."""
    connection = Connection()
    for params in (nested(63), jsonrpc.dumps(nested(63))):
        connection.notify("M", params)
    assert all(isinstance(jsonrpc.decode(frame), jsonrpc.Request) for frame in connection.data_to_send())


@pytest.mark.parametrize(
    "encode",
    [
        lambda: jsonrpc.encode_request("M", b"not json"),
        lambda: jsonrpc.encode_request("M", None, "1"),  # type: ignore[arg-type]
        lambda: jsonrpc.encode_request("M", None, True),
        lambda: jsonrpc.encode_request(b"M"),  # type: ignore[arg-type]
        lambda: jsonrpc.encode_result(b"1", bytearray(b"1")),
        lambda: jsonrpc.encode_result(b"1", b"not json"),
        lambda: jsonrpc.encode_result(b"[1]", 1),
        lambda: jsonrpc.encode_result(b"1x", 1),
        lambda: jsonrpc.encode_result(b"", 1),
        lambda: jsonrpc.encode_result(1, 1),  # type: ignore[arg-type]
        lambda: jsonrpc.encode_batch([]),
        lambda: jsonrpc.encode_batch(["{}"]),  # type: ignore[list-item]
        lambda: jsonrpc.encode_batch([b"{}", b"not json"]),
        lambda: jsonrpc.encode_batch(b"{}"),  # type: ignore[arg-type]
        lambda: jsonrpc.encode_error(b"x", ErrorObject(1, "x")),
        lambda: jsonrpc.encode_error(b"1", RpcError(1, "x")),  # type: ignore[arg-type]
    ],
)
def test_frames_that_would_be_none(encode: Callable[[], bytes]) -> None:
    """The framing functions make messages, or raise."""
    with pytest.raises(InvalidInput):
        encode()


# Values


UPDATE = ota.Update.queued("u", ota.UpdateImage("fw", 10, "00"), now=0)
ROLLOUT = rollout.Rollout.begun("r", "", UPDATE.image, rollout.Plan(), (), 3, now=0)


@pytest.mark.parametrize("event", [ota.Started, "Started", None, rollout.Approved(), object()], ids=shown)
def test_an_event_of_an_update_that_is_none(event: Any) -> None:
    """A class in place of an event would change nothing, in silence."""
    with pytest.raises(TypeError, match="event"):
        ota.advance(UPDATE, event, now=1)
    with pytest.raises(TypeError, match="Update"):
        ota.advance(event, ota.Started(None), now=1)


@pytest.mark.parametrize("event", [rollout.Approved, "Approved", None, ota.UpdateDeadlinePassed(), object()], ids=shown)
def test_an_event_of_a_rollout_that_is_none(event: Any) -> None:
    """Likewise."""
    with pytest.raises(TypeError, match="event"):
        rollout.advance(ROLLOUT, event, now=1)
    with pytest.raises(TypeError, match="Rollout"):
        rollout.advance(event, rollout.Approved(), now=1)


NO_TIMES = ["5", None, nan, inf, -inf, True, b"1", [1.0]]


@pytest.mark.parametrize("time", NO_TIMES, ids=shown)
@pytest.mark.parametrize(
    "use",
    [
        lambda time: ota.Update.queued("u", UPDATE.image, now=time),
        lambda time: ota.advance(UPDATE, ota.CancelRequested(), now=time),
        lambda time: ota.advance(UPDATE, ota.RevertAccepted(), now=time),
        lambda time: ota.moved(UPDATE, time),
        lambda time: rollout.Rollout.begun("r", "", UPDATE.image, rollout.Plan(), (), 3, now=time),
        lambda time: rollout.advance(ROLLOUT, rollout.AbortRequested(), now=time),
        lambda time: rollout.judge(ROLLOUT, ROLLOUT.counts, time),
        lambda time: ROLLOUT.moved(time),
    ],
)
def test_a_time_of_an_update_or_rollout_that_is_none(use: Callable[[Any], object], time: Any) -> None:
    """A NaN would be stored as a null, and nothing would ever be due; also for an event that changes nothing."""
    with pytest.raises(InvalidInput, match="time in seconds"):
        use(time)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ota.Started("esp32"),  # type: ignore[arg-type]
        lambda: ota.BuildReported(None),  # type: ignore[arg-type]
        lambda: ota.BuildReported(ota.Build),  # type: ignore[arg-type]
        lambda: ota.BuildReported(ota.Build(), status=1),  # type: ignore[arg-type]
        lambda: ota.ChunkAccepted("0", 512),  # type: ignore[arg-type]
        lambda: ota.ChunkAccepted(-1, 512),
        lambda: ota.ChunkAccepted(0, 0.5),  # type: ignore[arg-type]
        lambda: ota.StepFailed("OTA.Begin", None, "x"),  # type: ignore[arg-type]
        lambda: ota.StepFailed("OTA.Begin", 1, b"x"),  # type: ignore[arg-type]
        lambda: ota.StepTimedOut(ota.Begin),  # type: ignore[arg-type]
    ],
)
def test_an_event_of_nonsense(make: Callable[[], object]) -> None:
    """Refused where it is made, before an update has it."""
    with pytest.raises(InvalidSetting):
        make()


@pytest.mark.parametrize("update", [None, ota.Update, ROLLOUT, "u"], ids=shown)
def test_a_step_of_no_update(update: Any) -> None:
    """`None` would say that the update has ended."""
    with pytest.raises(TypeError, match="Update"):
        ota.next_step(update)


@pytest.mark.parametrize("section", ["text", 5, [1], {"a"}], ids=shown)
def test_a_section_of_a_shadow_that_is_none(section: Any) -> None:
    """Only an object is one."""
    with pytest.raises(InvalidInput):
        Shadow(desired=section)
    with pytest.raises(InvalidInput):
        Shadow(reported=section)


@pytest.mark.parametrize("now", ["5", None, nan, inf])
def test_a_time_of_a_shadow_that_is_none(now: Any) -> None:
    """A text of digits is no time, although `int` would take it."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        Shadow().update({"state": {"reported": {"a": 1}}}, now=now)


# Secrets


@pytest.mark.parametrize("secret", [None, b"mdd_x", 5, ["mdd_x"]], ids=shown)
def test_a_secret_that_is_no_text(secret: Any) -> None:
    """A missing header, for example, is Unauthenticated, and no crash."""
    with pytest.raises(Unauthenticated):
        identity.hash_token(secret)
