"""Saved filters in the place of terms."""

from __future__ import annotations

import pytest

from mdash_backends.memory import MemoryDocuments
from mdashcore._errors import InvalidInput
from mdashcore.hub.saved_filters import SavedFilters


@pytest.mark.parametrize("terms", [["@nothing"] * 26_000, ["@nine", "@nine", "@nothing"]])
def test_too_many_terms_are_refused_before_the_rest_is_expanded(tools, terms):
    """A long list costs no more than a short one: what stands behind the bound is not looked up."""
    saved = SavedFilters(MemoryDocuments())
    tools.run(saved.save("alice", "nine", "online " * 9))
    with pytest.raises(InvalidInput, match="at most 16 terms"):
        tools.run(saved.resolve("alice", terms))


def test_a_name_may_stand_several_times(tools):
    """Each time it stands for its terms, between the others in their order."""
    saved = SavedFilters(MemoryDocuments())
    tools.run(saved.save("alice", "two", "hall online"))
    assert tools.run(saved.resolve("alice", ["@two", "a=b", " @two "])) == [
        *("text~hall", "online", "a=b", "text~hall", "online")
    ]


def test_a_filter_with_too_much_work_is_not_saved(tools):
    """It could not be used."""
    saved = SavedFilters(MemoryDocuments())
    with pytest.raises(InvalidInput, match="at most 64 values"):
        tools.run(saved.save("alice", "many", f"id~{'|'.join('x' * 40)} {'|'.join('y' * 25)}"))
