"""What happened to a device, in the one form in which it is stored and streamed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import Notification, jsonrpc, notifications
from mdashcore._errors import InvalidInput

NOTIFICATIONS = st.builds(
    Notification,
    st.text(),
    st.text(),
    st.none() | st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)).map(jsonrpc.dumps),
)

STORED = [
    (Notification("online", "d1"), b'{"name":"online","id":"d1"}'),
    (Notification("rpc.out.Log", "d1", b'{ "fd": 1 }'), b'{"name":"rpc.out.Log","id":"d1","data":{ "fd": 1 }}'),
    (Notification("rpc.in.GetInfo", "d1", b"null"), b'{"name":"rpc.in.GetInfo","id":"d1","data":null}'),
    (Notification('a"b', "\u00e4\n"), '{"name":"a\\"b","id":"\u00e4\\n"}'.encode()),
]


@pytest.mark.parametrize(("notification", "stored"), STORED)
def test_stored_form(notification: Notification, stored: bytes) -> None:
    """The stored form has name, id, and the data as they were written; no data leave no member."""
    assert notification.encode() == stored


@pytest.mark.parametrize(
    ("offset", "time", "end"),
    [
        (0, 0.0, b',"offset":0,"time":0.000}'),
        (41, 1717171717.1239, b',"offset":41,"time":1717171717.124}'),
        (2**60, 1.7e9, b',"offset":1152921504606846976,"time":1700000000.000}'),
    ],
)
def test_frame(offset: int, time: float, end: bytes) -> None:
    """A frame is the stored form with its offset, exact, and its time, to the millisecond."""
    assert notifications.frame(b'{"name":"online","id":"d1"}', offset, time) == b'{"name":"online","id":"d1"' + end


@given(NOTIFICATIONS, st.integers(0, 2**63), st.floats(0, 2**33))
def test_round_trip(notification: Notification, offset: int, time: float) -> None:
    """What is stored or streamed can be read again, the same."""
    stored = notification.encode()
    expected = {"name": notification.name, "id": notification.id}
    if notification.data is not None:
        expected["data"] = jsonrpc.loads(notification.data)
    assert notifications.decode(stored) == expected
    frame = notifications.decode(notifications.frame(stored, offset, time))
    assert abs(frame.pop("time") - time) <= 0.0005 + time * 1e-15
    assert frame == expected | {"offset": offset}


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"1", b"null", b'{"name":1,"id":"d"}', b'{"name":"n"}', b'{"name":"n","id":1}', b"\xff"]
)
def test_anything_else(text: bytes) -> None:
    """What is no notification is refused."""
    with pytest.raises(InvalidInput):
        notifications.decode(text)


def test_names_are_those_that_clients_know() -> None:
    """The names that clients compare with are fixed; calls and messages are followed by their method."""
    fixed = {notifications.ONLINE, notifications.OFFLINE, notifications.CREATED, notifications.DELETED}
    assert fixed | {notifications.UPDATED} == {"online", "offline", "created", "deleted", "updated"}
    assert (notifications.RPC_IN + "GetInfo", notifications.RPC_OUT + "Log") == ("rpc.in.GetInfo", "rpc.out.Log")
