"""What a person can type next in a filter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore.filter_completion import Completion, complete
from mdashcore.filters import Field

ARCH = Field("shadow", ("reported", "ota", "arch"))
REPORTED = Field("shadow", ("reported",))


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("on", Completion("", "on", "field", ("online",))),
        ("hall !fw_v", Completion("hall !", "fw_v", "field", ("fw_version",))),
        ("zzz", Completion("", "zzz", "field")),
        ("sh", Completion("", "sh", "field", ("shadow.",))),
        ("tag", Completion("", "tag", "field", ("tag", "tag."))),
        ("tag.si", Completion("tag.", "si", "key", (), Field("tag."))),
        ("shadow.r", Completion("shadow.", "r", "key", ("reported",), Field("shadow"))),
        (
            r"shadow.reported.a\.b.c",
            Completion(r"shadow.reported.a\.b.", "c", "key", (), Field("shadow", ("reported", "a.b"))),
        ),
        ("arch=", Completion("arch=", "", "value", (), ARCH)),
        ("!arch=esp32|e", Completion("!arch=esp32|", "e", "value", (), ARCH)),
        ('x arch="es p', Completion("x arch=", "es p", "value", (), ARCH)),
        ("online=t", Completion("online=", "t", "value", ("true",), Field("online"))),
        ("online<", Completion("online<", "", "value", ("5m", "1h", "1d", "1w"), Field("online"))),
        ("last_seen>1", Completion("last_seen>", "1", "value", ("1h", "1d", "1w"), Field("last_seen"))),
        ("update=t", Completion("update=", "t", "value", ("TRANSFERRING", "TIMED_OUT"), Field("update"))),
        ("update=FAILED|RO", Completion("update=FAILED|", "RO", "value", ("ROLLED_BACK",), Field("update"))),
        ("update<", Completion("update<", "", "value", ("5m", "1h", "1d", "1w"), Field("update"))),
        ("damaged=s", Completion("damaged=", "s", "value", ("shadow",), Field("damaged"))),
        ("presence_changes>", Completion("presence_changes>", "", "value", (), Field("presence_changes"))),
        ("tag.a.b", None),
        ("colour=r", None),
        ("a.b", None),
        ('"a b', None),
        ("x @ha", Completion("x @", "ha", "saved")),
        ("x" * 2000, None),
    ],
)
def test_a_completion(typed, found):
    """At each place of the grammar."""
    assert complete(typed) == found


def test_an_empty_field_offers_all_beginnings():
    """Also after a space."""
    assert complete("").words == complete("hall ").words
    assert {"online", "offline", "tag.", "shadow.", "fw_version"} <= set(complete("").words)


@given(st.text(max_size=30) | st.text('ab.\\"|<>!*=~ @tagshdowreprt', max_size=30))
def test_any_text_has_a_completion_or_none(typed):
    """What is kept is the beginning of what was typed."""
    found = complete(typed)
    assert found is None or typed.startswith(found.kept)
