"""Tags of devices: an object of names to text or `true`, by which people group them.

``{"site": "berlin", "indoor": true}``. They are changed by a merge patch (RFC 7396): a null removes a tag, a patch that
is null removes all. A device neither sees nor changes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from mdashcore._errors import InvalidInput

__all__ = ["MAX_TAGS", "MAX_TAG_TEXT", "Tags", "check_patch", "merge"]

MAX_TAGS: Final = 32  # of a device: they are read with every list, and shown in a line
MAX_TAG_TEXT: Final = 64  # characters of a name and of a value: a word or two

Tags: TypeAlias = Mapping[str, str | Literal[True]]
"""The tags of a device."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # no text for people, or half a character


def merge(tags: Tags, patch: object) -> Tags:
    """Return the tags with a patch merged in. Neither argument is changed. Raises `InvalidInput`.

    >>> merge({"site": "berlin", "old": True}, {"old": None, "indoor": True})
    {'site': 'berlin', 'indoor': True}
    """
    changes = check_patch(patch)
    if changes is None:
        return {}
    merged = {**tags, **changes}
    kept = {name: value for name, value in merged.items() if value is not None}
    if len(kept) > MAX_TAGS and len(kept) > len(tags):
        raise InvalidInput(f"a device has at most {MAX_TAGS} tags")
    return kept


def check_patch(patch: object) -> Mapping[str, Any] | None:
    """Return a patch of tags. Raises `InvalidInput` if it cannot be merged into any tags."""
    if patch is None:
        return None
    if not isinstance(patch, Mapping):
        raise InvalidInput('tags are an object, such as {"site": "berlin", "indoor": true}; null removes them')
    if sum(value is not None for value in patch.values()) > MAX_TAGS:
        raise InvalidInput(f"a device has at most {MAX_TAGS} tags")
    for name, value in patch.items():
        _check_text("a tag's name", name)
        if isinstance(value, str):
            _check_text("a tag's value", value)
        elif value is not None and value is not True:
            raise InvalidInput(f"the value of the tag {name!r} has to be text or true, or null to remove it")
    return patch


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TAG_TEXT:
        raise InvalidInput(f"{what} has 1 to {MAX_TAG_TEXT} characters")
    if text != text.strip() or _UNPRINTABLE.search(text):
        raise InvalidInput(f"{what} has no spaces at its ends and no control characters: {text!r}")
