"""What is read of frames that are broken or cut: an id only where it is the frame's own."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._salvage import END_SIZE, SalvagedFrame, salvage

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just('{"id":99,"method":"'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "method", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)
ORDERS = st.permutations(["jsonrpc", "id", "result", "src", "tag"])


@pytest.mark.parametrize(
    ("frame", "id", "is_request"),
    [
        (b'{"id":7,"error":{"code":500,"message":}}', b"7", False),
        (b'{"error":{"code":500,"message":},"id":7}', b"7", False),
        (b'{"result":nan,"id":"12"}', b'"12"', False),
        (b'{"result":{"t":-inf,"x":[1,,2]},"id" : 7.0 }', b"7.0", False),
        (b'{"id":7,', b"7", False),
        (b'{"id":71', None, False),  # may have been 710
        (b'{"id":"7', None, False),
        (b'{"id":7 8,"result":1}', None, False),
        (b'{"id":,"result":1}', None, False),
        (b'{"id":{"id":4},"result":nan}', None, False),
        (b'{"x":{"id":3},"result":nan}', None, False),
        (b'{"result":"{\\"id\\":4,","id":5,', b"5", False),
        (b'[{"id":7,"result":nan}]', None, False),
        (b'{"method":"M","params":nan,"id":5}', b"5", True),
        (b'{"params":nan,"id":5', None, True),
        (b'{"id":5,"args":[', b"5", True),
        (b'{"method":null,"result":nan,"id":5}', b"5", False),  # some libraries write both
        (b'{"id":null,"result":nan}', None, False),
        (b'{"id":true,"result":nan}', None, False),
        (b'"id":7,', None, False),
        (b"", None, False),
        (b"\xff{{", None, False),
    ],
)
def test_broken_frames(frame: bytes, id: bytes | None, is_request: bool) -> None:
    """The id is a member of the frame itself, complete, a number or a string; whether a request was meant is known
    from its members."""
    assert salvage(frame) == SalvagedFrame(id, is_request)


@given(
    st.dictionaries(st.sampled_from(["id", "method", "x"]), VALUES), ORDERS, st.integers(0, 400), st.integers(0, 400)
)
def test_the_ends_of_a_sound_frame(result: Any, order: list[str], head: int, tail: int) -> None:
    """Of a sound frame that was cut, no other id is ever read than its own, and no answer is taken for a request."""
    frame = {"jsonrpc": "2.0", "id": 1234, "result": result, "src": "d1", "tag": "x"}
    text = json.dumps({key: frame[key] for key in order}).encode()
    found = salvage(text[:head], text[len(text) - min(tail, len(text)) :])
    assert found.id in (b"1234", None)
    assert not found.is_request
    assert salvage(text) == SalvagedFrame(b"1234", False)
    if order.index("result") in (0, 4):  # all that is large stands before it, or behind it
        assert salvage(b"", text).id == b"1234" or order[-1] == "result"


@pytest.mark.parametrize("unit", [b'\\"', b'"', b"{", b"[]", b",", b'"a":', b'{"id":', b',"id":1', b"\\", b'"id":"'])
def test_time_is_linear(unit: bytes) -> None:
    """However the ends are made, they take milliseconds."""
    text = unit * END_SIZE
    started = time.perf_counter()
    salvage(b'{"a":' + text, text)
    assert time.perf_counter() - started < 0.5
