"""The client of a request that came through proxies."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rows import every_row

from mdashcore._errors import InvalidInput
from mdashcore.server.http.forwarded import MAX_HOPS, ForwardedClient, Proxies

TRUSTED = ("10.0.0.0/8", "192.0.2.1", "2001:db8:f::/48")
PEER = "10.0.0.1"


def client(headers, *, header="X-Forwarded-For", peer=PEER, scheme="http", trusted=TRUSTED):
    """The client of a request with these headers, by lower-case name, as (address, scheme)."""
    found = Proxies(trusted, header).client(peer, scheme, headers.get)
    return found.address, found.scheme


LISTS = [
    ("203.0.113.9", "203.0.113.9"),
    (" 203.0.113.9 ", "203.0.113.9"),
    ("203.0.113.9:4711", "203.0.113.9"),
    ("2001:db8::7", "2001:db8::7"),
    ("[2001:db8::7]", "2001:db8::7"),
    ("[2001:db8::7]:4711", "2001:db8::7"),
    ("::ffff:203.0.113.9", "203.0.113.9"),
    ("1.1.1.1, 203.0.113.9", "203.0.113.9"),  # what is left of it the client has sent
    ("203.0.113.9, 10.0.0.7", "203.0.113.9"),
    ("203.0.113.9,10.0.0.7,\t192.0.2.1,2001:db8:f::9", "203.0.113.9"),
    ("nonsense, 203.0.113.9", "203.0.113.9"),
    ('", 203.0.113.9', "203.0.113.9"),
    ("10.0.0.9", "10.0.0.9"),  # a client inside
    ("10.0.0.9, 10.0.0.7", "10.0.0.9"),
    ("x" * 100_000 + ", 203.0.113.9", "203.0.113.9"),
    ("", PEER),
    (",", PEER),
    ("203.0.113.9,", PEER),
    ("203.0.113.9, unknown", PEER),
    ("203.0.113.9, nonsense, 10.0.0.7", PEER),
    ("_hidden", PEER),
    ("unix:/run/x", PEER),
    ("203.0.113.999", PEER),
    ("203.0.113.9:4711:1", PEER),
    ("203.0.113.09", PEER),
    ("203.0.113.9 203.0.113.8", PEER),
    ("fe80::1%eth0", PEER),
    ("[203.0.113.9", PEER),
    ("203.0.113.9:123456", PEER),
    ("２０３.0.113.9", PEER),
    ("203.0.113.9" + ", 10.0.0.7" * (MAX_HOPS - 1), "203.0.113.9"),
    ("203.0.113.9" + ", 10.0.0.7" * MAX_HOPS, PEER),
]


@every_row(("value", "address"), LISTS)
def test_a_list_of_addresses(value, address):
    """The rightmost that is not trusted; the peer where that part of the list is not well formed."""
    assert client({"x-forwarded-for": value})[0] == address
    assert client({"x-real-ip": value}, header="X-Real-IP")[0] == address


ELEMENTS = [
    ("for=203.0.113.9", "203.0.113.9"),
    ("For=203.0.113.9;proto=https;by=10.0.0.1", "203.0.113.9"),
    ('for="203.0.113.9:4711"', "203.0.113.9"),
    ('for="[2001:db8::7]"', "2001:db8::7"),
    ('for="[2001:db8::7]:4711"', "2001:db8::7"),
    ('by=_x ; for="[2001:db8::7]:4711" ; host="example.org:80"', "2001:db8::7"),
    ("for=1.1.1.1, for=203.0.113.9", "203.0.113.9"),
    ("for=203.0.113.9, for=10.0.0.7;by=_x", "203.0.113.9"),
    ('for="x, for=203.0.113.9', "203.0.113.9"),  # a quote that the client has left open hides nothing
    ('for="\\", for=203.0.113.9', "203.0.113.9"),
    ("=;,, for=203.0.113.9;", "203.0.113.9"),
    ("for=10.0.0.9", "10.0.0.9"),
    ("for=1.1.1.1, for=unknown", PEER),
    ("for=1.1.1.1, for=_hidden", PEER),
    ('for="unix:/run/x"', PEER),
    ("for=2001:db8::7", PEER),  # has to be quoted
    ("proto=https", PEER),
    ("203.0.113.9", PEER),
    ("for=203.0.113.9 for=1.1.1.1", PEER),
    ("for = 203.0.113.9", PEER),
    ('for="203.0.113.9', PEER),
    ('for="203.0.113.9, 1.1.1.1"', PEER),
    ("", PEER),
    (",", PEER),
    ("for=203.0.113.9" + ", for=10.0.0.7" * (MAX_HOPS - 1), "203.0.113.9"),
    ("for=203.0.113.9" + ", for=10.0.0.7" * MAX_HOPS, PEER),
]


@every_row(("value", "address"), ELEMENTS)
def test_the_standard_header(value, address):
    """RFC 7239, read by the same rule."""
    assert client({"forwarded": value}, header="Forwarded")[0] == address


SCHEMES = [
    ({"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}, "https"),
    ({"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": " HTTPS "}, "https"),
    ({"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "http"}, "http"),
    ({"x-forwarded-for": "203.0.113.9"}, "http"),
    ({"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "gopher"}, "http"),
    ({"x-forwarded-for": "203.0.113.9, 10.0.0.7", "x-forwarded-proto": "https, http"}, "https"),
    ({"x-forwarded-for": "1.1.1.1, 203.0.113.9", "x-forwarded-proto": "https, http"}, "http"),
    ({"x-forwarded-for": "1.1.1.1, 203.0.113.9, 10.0.0.7", "x-forwarded-proto": "http, https, http"}, "https"),
    ({"x-forwarded-for": "203.0.113.9, 10.0.0.7, 10.0.0.8", "x-forwarded-proto": "https, http"}, "http"),
    ({"x-forwarded-for": "unknown", "x-forwarded-proto": "https"}, "http"),  # nothing of it is believed
    ({"x-forwarded-proto": "https"}, "http"),
]


@every_row(("headers", "scheme"), SCHEMES)
def test_the_scheme(headers, scheme):
    """What the client's proxy says, where it is one of the two that there are."""
    assert client(headers)[1] == scheme
    assert client(headers, peer="203.0.113.80") == ("203.0.113.80", "http")
    assert client(headers, peer="203.0.113.80", scheme="https") == ("203.0.113.80", "https")


def test_the_scheme_of_the_standard_header():
    """It is the one of the element that has the client's address."""
    for value, scheme in [
        ("for=203.0.113.9;proto=https", "https"),
        ("for=203.0.113.9;proto=HTTPS, for=10.0.0.7;proto=http", "https"),
        ("for=1.1.1.1;proto=https, for=203.0.113.9;proto=http", "http"),
        ("for=203.0.113.9, for=10.0.0.7;proto=https", "http"),
    ]:
        headers = {"forwarded": value, "x-forwarded-proto": "https"}  # the client's own: another header counts
        assert (value, client(headers, header="Forwarded")[1]) == (value, scheme)


@pytest.mark.parametrize("peer", ["203.0.113.80", "11.0.0.1", "2001:db8:e::1", "", "unix"])
def test_a_peer_that_is_not_trusted_is_the_client(peer):
    """Whatever it says; also one without an address."""
    assert client({"x-forwarded-for": "1.1.1.1", "x-forwarded-proto": "https"}, peer=peer) == (peer, "http")


def test_a_mapped_peer_is_the_ipv4_address_that_it_is():
    """A socket for both families has such peers."""
    assert client({"x-forwarded-for": "203.0.113.9"}, peer="::ffff:10.0.0.1")[0] == "203.0.113.9"
    assert client({}, peer="::ffff:203.0.113.80")[0] == "203.0.113.80"


def test_without_proxies_no_header_counts(caplog):
    """And an operator who has forgotten to name them is told so, once."""
    proxies = Proxies()
    headers = {"x-forwarded-for": "1.1.1.1", "x-forwarded-proto": "https"}
    for _ in range(3):
        assert proxies.client(PEER, "http", headers.get) == ForwardedClient(PEER, "http")
    (record,) = caplog.records
    assert f"requests from {PEER} come through a proxy" in record.getMessage()


@pytest.mark.parametrize(
    ("trusted", "header"),
    [((), "X-Forwarded-For"), (("10.0.0.1",), None), (("10.0.0.1/8",), "X"), (("proxy",), "X"), (("10.0.0.1",), "a b")],
)
def test_what_is_no_configuration(trusted, header):
    """It is refused, with words."""
    with pytest.raises(InvalidInput, match=r"trusted_proxies|forwarded_header"):
        Proxies(trusted, header)


addresses = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None).map(str)
junk = st.text(st.sampled_from('abf:.,;= "\\[]%0129\t') | st.characters(), max_size=60)


def quoted(address):
    """As RFC 7239 has it."""
    return f'for="[{address}]"' if ":" in address else f"for={address}"


@given(
    left=junk, real=addresses, inner=st.lists(st.sampled_from(["10.0.0.7", "192.0.2.1", "2001:db8:f::1"]), max_size=5)
)
def test_nothing_that_a_client_sends_changes_what_the_proxies_append(left, real, inner):
    """Whatever stands to the left, in either form."""
    hops = [real, *inner]
    assume(not any(ip_address(real) in ip_network(network) for network in TRUSTED))
    for header, value in (
        ("X-Forwarded-For", ", ".join([left, *hops])),
        ("Forwarded", ", ".join([left, *map(quoted, hops)])),
    ):
        assert client({header.lower(): value}, header=header)[0] == real


@given(value=junk, proto=junk)
def test_any_header_gives_an_address(value, proto):
    """It never fails, and what it gives is one of the header's addresses or the peer's."""
    for header in ("X-Forwarded-For", "Forwarded"):
        address, scheme = client({header.lower(): value, "x-forwarded-proto": proto}, header=header)
        assert address == PEER or _is_address(address)
        assert scheme in ("http", "https")


def _is_address(text):
    return str(ip_address(text)) == text
