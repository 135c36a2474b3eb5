"""The filters of versions up to 0.1, which are stored in rollouts, in the grammar of today.

Their terms were ``online``, ``offline``, ``FIELD=VALUE``, ``FIELD!=VALUE`` and ``FIELD~TEXT``. Everything after the
operator was the value, with all quotes and ``|`` in it.
"""

from __future__ import annotations

import re

from mdashcore import _json
from mdashcore._errors import InvalidInput
from mdashcore.filters import Field, Term, Value, format_term
from mdashcore.filters._fields import FIRMWARE_FIELDS
from mdashcore.filters._parser import split_keys

__all__ = ["translated"]

_TERM = re.compile(r"([^=!~]+)(=|!=|~)(.*)", re.DOTALL)


def translated(text: str) -> str:
    r"""Return a term of the first grammar in the form of today, with the same meaning. Other text stays as it is.

    >>> translated("name=a|b"), translated("id=a,b"), translated('shadow.reported.n="5"')
    ('name="a|b"', 'id=a|b', 'shadow.reported.n="\\"5\\""|"5"')
    """
    match = _TERM.fullmatch(text)
    if match is None:
        return text  # online, offline
    name, operator, value = match[1].strip(), match[2], match[3].strip()
    if name == "online":
        return format_term(Term(Field("online"), "=", (Value(value),), operator == "!="))
    if name in ("id", "name"):
        field = Field(name)
    elif name in FIRMWARE_FIELDS:
        field = Field("shadow", ("reported", "ota", name))
    else:
        field = Field("shadow", tuple(split_keys(name)[1:]))
    texts = value.split(",") if name == "id" and operator != "~" else [value]
    values = [_value(each) for each in texts]
    if field.name == "shadow" and operator != "~":  # JSON text was compared as text, too
        values += [Value(each, quoted=True) for each in _json_text(value)]
    return format_term(Term(field, operator[-1], tuple(values), operator == "!="))


def _value(text: str) -> Value:
    return Value(text, quoted=format_term(Term(Field("name"), "=", (Value(text),))).startswith('name="'))


def _json_text(value: str) -> list[str]:
    try:
        decoded = _json.decode(value)
    except InvalidInput:
        return []
    return [decoded] if isinstance(decoded, str) else []
