"""Tags, and patches of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore._errors import InvalidInput
from mdashcore.tags import MAX_TAG_TEXT, MAX_TAGS, merge

TEXT = st.text("abcö .-", min_size=1, max_size=4).filter(lambda text: text == text.strip())
TAGS = st.dictionaries(TEXT, TEXT | st.just(True), max_size=5)
PATCHES = st.dictionaries(TEXT, TEXT | st.just(True) | st.none(), max_size=5)


@given(TAGS, PATCHES)
def test_a_patch_is_merged(tags, patch):
    """As RFC 7396 says: null removes, any other value replaces, the rest stays. Again, it changes nothing."""
    merged = merge(tags, patch)
    for name in tags.keys() | patch.keys():
        assert merged.get(name) == (patch[name] if name in patch else tags[name])
    assert merge(merged, patch) == merged


@given(TAGS)
def test_a_patch_that_is_null_removes_all(tags):
    """And one without members changes nothing."""
    assert merge(tags, None) == {}
    assert merge(tags, {}) == tags


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ([], "an object"),
        ("berlin", "an object"),
        ({"a": False}, "text or true"),
        ({"a": 1}, "text or true"),
        ({"a": {"b": True}}, "text or true"),
        ({"": True}, "a tag's name has 1 to 64"),
        ({"x" * (MAX_TAG_TEXT + 1): True}, "a tag's name has 1 to 64"),
        ({"a": ""}, "a tag's value has 1 to 64"),
        ({"a": "x" * (MAX_TAG_TEXT + 1)}, "a tag's value has 1 to 64"),
        ({" a": True}, "no spaces at its ends"),
        ({"a": "b "}, "no spaces at its ends"),
        ({"a\nb": None}, "control characters"),
        ({"a": "\ud800"}, "control characters"),
        ({5: True}, "a tag's name"),
        ({str(n): True for n in range(MAX_TAGS + 1)}, "at most 32"),
    ],
)
def test_a_wrong_patch_is_refused(patch, words):
    """With words that say what is allowed."""
    with pytest.raises(InvalidInput, match=words):
        merge({}, patch)


def test_a_device_has_a_bounded_number():
    """A full device takes changes and removals, and no further tag."""
    full = {str(n): True for n in range(MAX_TAGS)}
    assert merge(full, {"0": None, "new": "x" * MAX_TAG_TEXT}) == {
        **{k: v for k, v in full.items() if k != "0"},
        "new": "x" * 64,
    }
    with pytest.raises(InvalidInput, match="at most 32"):
        merge(full, {"new": True})
