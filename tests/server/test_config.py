"""The configuration's words: what is an address."""

from __future__ import annotations

import pytest

from mdashcore import InvalidInput
from mdashcore.server.config import parse_bind


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:65535", ("::1", 65535)),
        (":0", ("", 0)),
        ("mdash.example:443", ("mdash.example", 443)),
    ],
)
def test_an_address(text, address):
    """HOST:PORT, where an IPv6 address stands in brackets."""
    assert parse_bind(text) == address


@pytest.mark.parametrize("text", ["", "8080", "host", "host:", "host:x", "host:-1", "host:65536", "host:٣"])
def test_no_address(text):
    """Said with what was given; a port is a number that TCP has."""
    with pytest.raises(InvalidInput, match="is no HOST:PORT"):
        parse_bind(text)
