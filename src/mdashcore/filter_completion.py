"""Completion of a filter that a person is typing: what stands before the cursor, in terms of the grammar."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal

import attrs

from mdashcore.filters import FIELDS, Field
from mdashcore.filters._line import MAX_FILTER_LINE
from mdashcore.filters._parser import SAVED_MARK, parse_field, split_keys

__all__ = ["Completion", "complete"]

_BEFORE_VALUE = re.compile(r"""((?:\\.|[^=!~<>|"\\])+)(!=|!~|<=|>=|=|~|<|>)""", re.DOTALL)

_AGES: Final = ("5m", "1h", "1d", "1w")

_KEY_FIELDS: Final = {"shadow": ("reported", "desired", "delta"), "tag": ()}
"""The first keys of the fields that go on after a dot."""


@attrs.frozen
class Completion:
    """What a word before the cursor can become."""

    kept: str
    """The text in front of the word, which stays."""
    prefix: str
    """The word so far, without its opening quote."""
    kind: Literal["field", "key", "value", "saved"]
    """What it is: the beginning of a term, a key in a field, a value, or the name of a saved filter."""
    words: tuple[str, ...] = ()
    """What the grammar has for this place, as it is written."""
    field: Field | None = None
    """For a value the field that is compared; for a key the part of the field that is written already."""


def complete(typed: str) -> Completion | None:
    """Return the completion of the text before the cursor; `None` where nothing can be completed.

    >>> complete("online fw").words
    ('fw_id', 'fw_version')
    >>> complete("arch=esp32|e").kept
    'arch=esp32|'
    """
    if len(typed) > MAX_FILTER_LINE:
        return None
    start = _last_start(typed, str.isspace)
    if typed[start : start + 1] == "!":
        start += 1
    word = typed[start:]
    if word.startswith(SAVED_MARK):
        return Completion(typed[: start + 1], word[1:], "saved")
    match = _BEFORE_VALUE.match(word)
    if match is None:
        return _field(typed, start)
    return _value(typed, start + match.end(), match[1], match[2])


def _last_start(text: str, is_separator: Callable[[str], bool], start: int = 0) -> int:
    """Return where the last piece begins: behind the last separator that is neither quoted nor behind a backslash."""
    quoted = escaped = False
    for at in range(start, len(text)):
        character = text[at]
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif not quoted and is_separator(character):
            start = at + 1
    return start


def _field(typed: str, start: int) -> Completion | None:
    if '"' in typed[start:]:
        return None  # a quoted word
    last = _last_start(typed, lambda character: character == ".", start)
    if last == start:
        prefix = typed[start:]
        words = [*("online", "offline"), *(_beginning(name) for name in FIELDS if name not in ("online", "offline"))]
        return Completion(typed[:start], prefix, "field", tuple(each for each in words if each.startswith(prefix)))
    head, *path = split_keys(typed[start : last - 1])
    if head not in _KEY_FIELDS or (head == "tag" and path):
        return None
    prefix = typed[last:]
    words = [] if path else [each for each in _KEY_FIELDS[head] if each.startswith(prefix)]
    field = Field("tag." if head == "tag" else "shadow", tuple(path))
    return Completion(typed[:last], split_keys(prefix)[0] if prefix else "", "key", tuple(words), field)


def _beginning(name: str) -> str:
    return {"tag.": "tag.", "shadow": "shadow."}.get(name, name)


def _value(typed: str, start: int, name: str, operator: str) -> Completion | None:
    field = parse_field(name.strip())
    if field is None:
        return None
    is_equal = operator in ("=", "!=")
    is_age = FIELDS[field.name].is_age
    values = ("true", "false") if field.name == "online" else FIELDS[field.name].values
    if is_age and is_equal and not values:
        return None
    start = _last_start(typed, lambda character: character == "|", start)
    written = typed[start:]
    words = values if is_equal else _AGES if is_age else ()
    prefix = written[1:] if written.startswith('"') else written
    fitting = (each for each in words if each.startswith((prefix, prefix.upper())))
    return Completion(typed[:start], prefix, "value", tuple(map(str, fitting)), field)
