"""Which devices a filter means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import InvalidInput
from mdashcore.selection import MAX_TERM, MAX_TERMS, Facts, parse, parse_term

STATE = {
    "reported": {"on": True, "n": 5, "text": "5", "a.b": {"c": 1.5}, "ota": {"fw_version": "1.10", "arch": "esp32"}},
    "desired": {"on": False},
    "delta": None,
}
LAMP = Facts("lamp", "Lamp in the Hall", online=True, state=lambda: STATE)


@pytest.mark.parametrize(
    ("term", "holds"),
    [
        ("online", True),
        ("offline", False),
        ("online=true", True),
        ("online!=true", False),
        ("id=lamp", True),
        ("id=fan,lamp", True),
        ("id!=fan,lamp", False),
        ("id~AM", True),
        ("name=Lamp in the Hall", True),
        ("name=lamp in the hall", False),
        ('name="Lamp in the Hall"', False),  # a name is text, and may be any: quotes belong to it
        ("name~hall", True),
        ("name~cellar", False),
        ("arch=esp32", True),
        ("fw_version=1.10", True),
        ("fw_version=1.1", False),
        ("fw_version!=1.1", True),
        ('fw_version="1.10"', True),
        ("app=lamp", False),
        ("app!=lamp", True),
        ("shadow.reported.on=true", True),
        ("shadow.reported.on=1", False),
        ("shadow.desired.on=false", True),
        ("shadow.reported.n=5", True),
        ("shadow.reported.n=5.0", True),
        ("shadow.reported.n~5", False),
        ("shadow.reported.text=5", True),
        (r"shadow.reported.a\.b.c=1.5", True),
        ("shadow.reported.nothing=null", True),
        ("shadow.reported.nothing!=null", False),
        ("shadow.reported.nothing!=3", True),
        ("shadow.reported.on.deeper=null", True),
        ("shadow.reported.text=a=b", False),
        ("shadow.delta.on=null", True),
        (" online ", True),
    ],
)
def test_a_term(term, holds):
    """Each form and each field."""
    assert parse_term(term).holds(LAMP) is holds


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("", "empty"),
        (5, "empty or no text"),
        ("arch", "FIELD=VALUE"),
        ("colour=red", "unknown field 'colour'"),
        ("shadow=1", "unknown field 'shadow'"),
        ("shadow..a=1", "unknown field"),
        ("shadow.other.a=1", "desired, reported and delta"),
        ("online=maybe", "true or false"),
        ("online~t", "true or false"),
        ("id=" + "x" * MAX_TERM, f"at most {MAX_TERM}"),
    ],
)
def test_what_is_no_term(term, words):
    """It is refused, and the error says how it is written."""
    with pytest.raises(InvalidInput, match=words):
        parse_term(term)


@pytest.mark.parametrize(
    ("terms", "devices"),
    [
        ("online", None),
        (["online"] * (MAX_TERMS + 1), None),
        ({"online": True}, None),
        ([], []),
        ([], "lamp"),
        ([], ["a/b"]),
        ([], [5]),
    ],
)
def test_what_is_no_selection(terms, devices):
    """A list of terms and a list of ids, both with a bound."""
    with pytest.raises(InvalidInput):
        parse(terms, devices)


def test_all_has_to_hold():
    """Of several terms, and of the named devices."""
    assert parse([]).matches(LAMP)
    assert parse(["online", "arch=esp32"]).matches(LAMP)
    assert not parse(["online", "arch=esp8266"]).matches(LAMP)
    assert parse(["online"], ["fan", "lamp"]).matches(LAMP)
    assert not parse(["online"], ["fan"]).matches(LAMP)


def test_shadows_are_read_only_where_a_term_asks_for_them():
    """A filter on name and presence leaves them alone."""

    def state():
        raise AssertionError

    assert parse(["online", "name~lamp", "id=lamp"]).matches(Facts("lamp", "Lamp", online=True, state=state))
    assert not parse(["online"]).reads_shadows
    assert parse(["arch=esp32"]).reads_shadows


@given(st.text(max_size=40))
def test_any_text_is_a_term_or_refused(text):
    """Nothing else comes of it; and what is one either holds or does not, as its negation says."""
    try:
        term = parse_term(text)
    except InvalidInput:
        return
    assert term.holds(LAMP) in (True, False)


@given(
    field=st.sampled_from(["id", "name", "arch", "shadow.reported.n", "shadow.reported.x"]),
    value=st.text(max_size=20),
)
def test_not_equal_is_the_opposite_of_equal(field, value):
    """For every field and value."""
    assert parse_term(f"{field}={value}").holds(LAMP) is not parse_term(f"{field}!={value}").holds(LAMP)
