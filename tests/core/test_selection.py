"""Which devices a filter means."""

from __future__ import annotations

import pytest
from filter_cases import CASES, DEVICES, NOW, SUMMARY_CASES, SUMMARY_DEVICES
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import InvalidInput
from mdashcore._natural_order import natural_key
from mdashcore.filters import parse_line
from mdashcore.filters._line import MAX_TERMS
from mdashcore.selection import MAX_SOUGHT, Facts, Selection, parse
from mdashcore.shadow import Shadow


def facts_of(device):
    """The facts of a device in the table."""
    shadow = Shadow(desired=device["desired"], reported=device["reported"])
    state = {"desired": shadow.desired, "reported": shadow.reported, "delta": shadow.delta}
    plain = {name: value for name, value in device.items() if name not in ("desired", "reported")}
    return Facts(**plain, **SUMMARY_DEVICES[device["id"]], state=lambda: state)


FACTS = [facts_of(device) for device in DEVICES]
LAMP = FACTS[0]


@pytest.mark.parametrize(("line", "ids"), [*CASES.items(), *SUMMARY_CASES.items()])
def test_what_a_filter_means(line, ids):
    """Each form, each field, and values of each type."""
    selection = Selection(terms=parse_line(line))
    assert [each.id for each in FACTS if selection.matches(each, NOW)] == ids.split()


@pytest.mark.parametrize(
    ("terms", "devices"),
    [
        ("online", None),
        (["online"] * (MAX_TERMS + 1), None),
        (["id~" + "|".join(["x"] * (MAX_SOUGHT // 2)), "name!~" + "|".join(["x"] * (MAX_SOUGHT // 2 + 1))], None),
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


def test_a_filter_has_as_many_values_as_fit():
    """The bound is for texts that are sought, which are compared one by one; for others the length of terms is."""
    assert parse(["id~" + "|".join(["x"] * (MAX_SOUGHT - 1)) + "|lamp"]).matches(LAMP, NOW)
    assert parse(["id=" + "|".join(["x"] * (MAX_SOUGHT * 2)) + "|lamp"] * MAX_TERMS).matches(LAMP, NOW)


def test_a_text_is_folded_once_for_all_values():
    """It may be a text of 30 KB in a shadow, and folding it is the most of the work."""
    folded = []

    class Text(str):
        __slots__ = ()

        def casefold(self):
            folded.append(self)
            return super().casefold()

    facts = Facts("d1", "d1", True, lambda: {"reported": {"t": Text("Hall")}})
    assert not parse(["shadow.reported.t~" + "|".join(["x"] * MAX_SOUGHT)]).matches(facts, NOW)
    assert folded == ["Hall"]


@given(st.text("019.a", max_size=12), st.text("019.a", max_size=6))
def test_the_beginning_of_a_text_decides_its_natural_order(found, wanted):
    """One run more than the other text has is enough, however long the text is."""
    key = natural_key(wanted)
    begin = natural_key(found, len(key) + 1)
    assert (begin < key, begin == key) == (natural_key(found) < key, natural_key(found) == key)


def test_all_has_to_hold():
    """Of several terms, and of the named devices."""
    assert parse([]).matches(LAMP, NOW)
    assert parse(["online", "arch=esp32"]).matches(LAMP, NOW)
    assert not parse(["online", "arch=esp8266"]).matches(LAMP, NOW)
    assert parse(["online"], ["fan", "lamp"]).matches(LAMP, NOW)
    assert not parse(["online"], ["fan"]).matches(LAMP, NOW)


def test_shadows_are_read_only_where_a_term_asks_for_them():
    """A filter on name, tags and presence leaves them alone."""

    def state():
        raise AssertionError

    lamp = Facts("lamp", "Lamp", online=True, state=state, tags={"site": "x"})
    assert parse(["online", "name~lamp", "id=lamp", "tag.site=x", "last_seen<1m"]).matches(lamp, NOW)
    assert not parse(["online", "tag=x"]).reads_shadows
    assert parse(["arch=esp32"]).reads_shadows


@given(age=st.floats(0, 2e8), now=st.floats(-1e9, 1e10), seconds=st.integers(0, 10**6))
def test_an_age_has_two_sides(age, now, seconds):
    """What has a moment is older, or not older, than any age, and not both."""
    device = Facts("a", "", online=False, last_seen=now - age)
    held = [parse([f"last_seen{sign}{seconds}s"]).matches(device, now) for sign in ("<", ">=", "<=", ">")]
    assert held[0] is not held[1]
    assert held[2] is not held[3]


@given(
    field=st.sampled_from(["id", "name", "arch", "tag", "tag.site", "shadow.reported.n", "shadow.reported.x"]),
    sign=st.sampled_from(["=", "~", "<", ">="]),
    value=st.text(max_size=20),
)
def test_not_is_the_opposite(field, sign, value):
    """For every field, operator and value that go together."""
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    try:
        term = parse([f"{field}{sign}{quoted}"])
    except InvalidInput:
        return
    negated = parse([f"!{field}{sign}{quoted}"])
    for device in FACTS:
        assert term.matches(device, NOW) is not negated.matches(device, NOW)


@given(st.lists(st.text("019ab.-", max_size=12), min_size=3, max_size=3))
def test_texts_are_in_one_order(texts):
    """The order of texts is total and transitive."""

    def holds(a, sign, b):
        return parse([f'tag.t{sign}"{b}"']).matches(Facts("d", "", online=True, tags={"t": a}), NOW)

    a, b, c = texts
    assert holds(a, "<=", b) or holds(b, "<=", a)
    assert holds(a, "<", b) is not holds(a, ">=", b)
    if holds(a, "<=", b) and holds(b, "<=", c):
        assert holds(a, "<=", c)
