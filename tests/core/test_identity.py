"""Names, ids, tokens: what is allowed, and what is kept of a secret."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import identity, jsonrpc
from mdashcore._errors import InvalidInput, NotFound

ENTROPY = st.binary(min_size=identity.ENTROPY_BYTES, max_size=identity.ENTROPY_BYTES)


@given(ENTROPY)
def test_tokens_keep_all_their_randomness(entropy: bytes) -> None:
    """A token is its prefix and all 256 bits, in letters that need no escaping in a header or URL."""
    token = identity.make_token(identity.DEVICE_PREFIX, entropy)
    prefix, _, rest = token.partition("_")
    assert prefix == "mdd"
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", rest)
    assert base64.urlsafe_b64decode(rest + "=") == entropy


@pytest.mark.parametrize("size", [0, 1, 16, 31, 33])
def test_tokens_of_another_size(size: int) -> None:
    """A token of too few random bytes is never made, nor one of more."""
    with pytest.raises(InvalidInput, match="32 random bytes"):
        identity.make_token("mdk", bytes(size))


def test_prefixes_differ() -> None:
    """A device's token, an API key and a session can be told apart by their first letters."""
    assert len({identity.DEVICE_PREFIX, identity.KEY_PREFIX, identity.SESSION_PREFIX}) == 3


@given(st.binary(min_size=8, max_size=40))
def test_ids_are_short_and_allowed(entropy: bytes) -> None:
    """An id made of random bytes has 60 of their bits, and is one that a device may have."""
    id = identity.make_id("dev", entropy)
    assert re.fullmatch(r"dev_[a-z2-7]{12}", id)
    assert identity.check_device_id(id) == id
    bits = int.from_bytes(entropy[:8], "big") >> 4
    assert identity.make_id("dev", (bits << 4).to_bytes(8, "big")) == id
    assert identity.make_id("dev", ((bits ^ 1) << 4).to_bytes(8, "big")) != id


@pytest.mark.parametrize("size", [0, 1, 7])
def test_ids_of_too_few_bytes(size: int) -> None:
    """An id of fewer bits is never made: two would meet."""
    with pytest.raises(InvalidInput, match="8 random bytes"):
        identity.make_id("dev", bytes(size))


@given(st.text(st.characters()))
def test_hash_of_a_token(token: str) -> None:
    """What is kept of a token is its SHA-256 in hexadecimal; any text that a client sends can be hashed."""
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    assert identity.hash_token(token) == digest


ALLOWED = [
    (identity.check_account_name, "admin"),
    (identity.check_account_name, "a"),
    (identity.check_account_name, "7"),
    (identity.check_account_name, "joe.doe+iot@example.com"),
    (identity.check_account_name, "A" * 64),
    (identity.check_device_id, "d1"),
    (identity.check_device_id, "esp32_0A1B2C"),
    (identity.check_device_id, "..."),
    (identity.check_device_id, "-"),
    (identity.check_device_id, "urn:dev:mac:00=1@x~y+z"),
    (identity.check_device_id, "d" * 128),
    (identity.check_label, ""),
    (identity.check_label, "Küche, 2. Stock 💡\n<b>/..\0"),
    (identity.check_label, "x" * 256),
]
REFUSED = [
    *(
        (identity.check_account_name, name)
        for name in ("", "A" * 65, "a:b", "a/b", "a b", ".a", "@a", "-a", "ä", "a\n")
    ),
    *((identity.check_account_name, name) for name in (None, 7, b"admin", ["admin"], "a\u0661", "a\0", "a%2Fb")),
    *((identity.check_device_id, id) for id in ("", "d" * 129, ".", "..", "a/b", "a b", "a%2Fb", "a?b", "a#b", "a\\b")),
    *((identity.check_device_id, id) for id in (None, 1, b"d1", {"id": 1}, "ü", "d1\n", "\n", "d\0", "\ud800", "١")),
    *((identity.check_label, name) for name in (None, 1, b"x", ["x"], "x" * 257, "\ud800", "a\udfffb")),
]


@pytest.mark.parametrize(("check", "value"), ALLOWED)
def test_allowed(check: Callable[[object], str], value: str) -> None:
    """What may be a name or an id comes back unchanged."""
    assert check(value) == value


@pytest.mark.parametrize(("check", "value"), REFUSED)
def test_refused(check: Callable[[object], str], value: object) -> None:
    """Anything else is refused, and the text says what is allowed."""
    with pytest.raises(InvalidInput, match="characters"):
        check(value)


@pytest.mark.parametrize("check", [identity.check_account_name, identity.check_device_id])
@given(text=st.text(st.characters(), max_size=5))
def test_names_stay_in_their_place(check: Callable[[object], str], text: str) -> None:
    """No name or id can leave its place in a key, a path, a URL or an HTTP Basic header."""
    try:
        check(text)
    except InvalidInput:
        return
    assert text.isascii()
    assert text.isprintable()
    assert text not in {"", ".", ".."}
    assert not set(text) & set("/\\%?#&;,\"'<> *")
    assert ":" not in text or check is identity.check_device_id


@given(st.text(st.characters(), max_size=300))
def test_labels_can_be_sent(text: str) -> None:
    """A name for people that is accepted can be written as JSON, and read again."""
    try:
        identity.check_label(text)
    except InvalidInput:
        return
    assert jsonrpc.loads(jsonrpc.dumps(text)) == text


def test_records_are_values() -> None:
    """An account, a device and a key cannot be changed, and are equal where their contents are."""
    account = identity.Account("joe", "$argon2id$x", admin=False, created_at=1.5)
    device = identity.Device("joe", "d1", "Lamp", "00ff", 1.5)
    key = identity.ApiKey("joe", "key_1", "CI", "00ff", 1.5)
    for record in (account, device, key):
        assert attrs.evolve(record) == record
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            record.created_at = 2.0  # type: ignore[misc]


NAMES_OF_NOTHING = ["", "..", ".", "a/b", "a\0b", "x" * 600, "a b", "ä", None, 7, b"a"]


@pytest.mark.parametrize("name", NAMES_OF_NOTHING)
def test_a_device_key_is_one_device(name):
    """What no account or device can be named makes no key; so none can mean what belongs to another account."""
    for parts in ((name, "lamp"), ("alice", name)):
        with pytest.raises(InvalidInput):
            identity.DeviceKey(*parts)
    if isinstance(name, str):
        with pytest.raises(NotFound, match="no device"):
            identity.DeviceKey.find("alice", name)
        with pytest.raises(InvalidInput):
            identity.DeviceKey.parse(f"alice/{name}")


@given(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z"), st.from_regex(r"\A[A-Za-z0-9_~:@+=-]{1,128}\Z"))
def test_a_device_key_is_read_as_it_was_written(account, id):
    """Text and back; it is a dictionary's key, and orders no two devices as one."""
    key = identity.DeviceKey(account, id)
    assert identity.DeviceKey.parse(str(key)) == key
    assert {key: 1}[identity.DeviceKey(account, id)] == 1
