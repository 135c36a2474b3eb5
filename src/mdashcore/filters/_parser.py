"""The parser of one term."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NoReturn

from mdashcore._errors import InvalidInput
from mdashcore.filters._fields import FIELDS, FIRMWARE_FIELDS
from mdashcore.filters._terms import SAFE_BARE, Field, Term, Value, format_term

__all__ = ["CONDITION", "MAX_TERM", "SAVED_MARK", "check_saved_name", "checked", "parse_field", "parse_place"]
__all__ += ["parse_term", "read_term", "read_values", "split_keys"]

MAX_TERM: Final = 512  # characters: a path of ten keys and a value; longer lists of ids go into `devices`

SAVED_MARK: Final = "@"
"""Begins the name of a saved filter where a term may stand."""

_SECTIONS: Final = ("desired", "reported", "delta")

CONDITION = re.compile(r"""((?:\\.|[^=!~<>|"\\])+)(!=|!~|<=|>=|=|~|<|>)(.*)""", re.DOTALL)
_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_BARE = re.compile(r'[^|<>!*"\\=~][^|<>!*"\\]*', re.DOTALL)
_KEYS = re.compile(r"(?:^|\.)((?:\\.|[^.\\])*)", re.DOTALL)
_SAVED_NAME = re.compile(r"(?![.-])[\w.-]{1,64}")
_PIECE = re.compile(r"\\.|[^\\]", re.DOTALL)

_SYNTAX: Final = "a filter's term is online, offline or FIELD=VALUE, with any of = != ~ !~ < <= > >="


def parse_term(text: object) -> Term:
    r"""Return the condition that a text says. Raises `InvalidInput`, whose text explains the syntax.

    >>> parse_term("shadow.reported.t>=22").field.path
    ('reported', 't')
    >>> str(parse_term("!name = Hall|Cellar stairs"))
    'name!=Hall|"Cellar stairs"'
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f"{_SYNTAX}; this one is empty or no text")
    if len(text) > MAX_TERM:
        raise InvalidInput(f"a filter's term has at most {MAX_TERM} characters")
    return checked(read_term(text.strip()))


def checked(term: Term) -> Term:
    """Return the term if its canonical form is short enough. Raises `InvalidInput` otherwise."""
    if len(format_term(term)) > MAX_TERM:  # its quotes and backslashes count: the canonical form can be parsed, too
        raise InvalidInput(f"a filter's term has at most {MAX_TERM} characters, with its quotes")
    return term


def read_term(text: str) -> Term:
    """Return the condition that a text says, however long it is. Raises `InvalidInput`."""
    negated = text.startswith("!")
    condition = text.removeprefix("!").strip()
    if condition in ("online", "offline"):
        return Term(Field("online"), "=", (Value("true" if condition == "online" else "false"),), negated)
    if condition.startswith(SAVED_MARK):
        negated_words = ", nor with ! before it" if negated else ""
        raise InvalidInput(f"a saved filter cannot be used here{negated_words}: {condition[:80]!r}")
    match = CONDITION.fullmatch(condition)
    if match is None:
        raise InvalidInput(f"{_SYNTAX}; not {text!r}{_hint(condition)}")
    name, field = _field(_stripped(match[1]))
    operator, written = match[2], match[3].strip()
    if operator in ("!=", "!~"):
        negated, operator = not negated, operator[1]
    if operator == "=" and written == "*":
        _check_operator(name, "*")
        return Term(field, "*", (), negated)
    _check_operator(name, operator)
    values = read_values(written)
    if field.name == "id" and operator == "=":
        values = tuple(each for value in values for each in _ids(value))
    if operator not in ("=", "~"):
        if len(values) > 1:
            raise InvalidInput(f"{operator} takes one value, not several with | between them")
        if FIELDS[name].is_age:
            _ = values[0].seconds
    elif name == "online" and values not in ((Value("true"),), (Value("false"),)):
        raise InvalidInput("online is true or false, or an age: online<5m")
    elif FIELDS[name].values:
        values = tuple(_known_value(name, each) for each in values)
    if name == "presence_changes" and not all(type(each) is int for value in values for each in value.scalars or ("",)):
        raise InvalidInput("presence_changes is a whole number: presence_changes>=6")
    return Term(field, operator, values, negated)


def _known_value(name: str, value: Value) -> Value:
    known = {each.casefold(): each for each in FIELDS[name].values}
    found = known.get(value.text.casefold())
    if found is None:
        raise InvalidInput(f"{name} is one of {', '.join(known.values())}; not {value.text[:80]!r}")
    return Value(str(found))


def _hint(condition: str) -> str:
    word = condition if re.fullmatch(r"[\w.-]{1,32}", condition) else None
    return "" if word is None else f": text~{word} finds it in ids and names, {word}=* asks whether a field exists"


def _check_operator(name: str, operator: str) -> None:
    known = FIELDS[name].operators.split()
    if operator not in known:
        wanted = "=*" if operator == "*" else operator
        raise InvalidInput(f"{FIELDS[name].form} takes {' '.join(known).replace(' *', ' =*')}, not {wanted}")


def _stripped(written: str) -> str:
    """Return a field without spaces around it. A space after a backslash belongs to a key."""
    pieces = _PIECE.findall(written.lstrip())
    while pieces and pieces[-1].isspace():
        pieces.pop()
    return "".join(pieces)


def _field(written: str) -> tuple[str, Field]:
    """Return a field, and its name in `FIELDS`."""
    if written in FIRMWARE_FIELDS:
        return written, Field("shadow", ("reported", "ota", written))
    if written in FIELDS and written not in ("tag.", "shadow"):
        return written, Field(written)
    head, *path = split_keys(written)
    if head == "tag" and path:
        if len(path) > 1 or not path[0]:
            raise InvalidInput(r"a tag is written as tag.NAME; a dot in its name as \.")
        return "tag.", Field("tag.", (path[0],))
    if head != "shadow" or not path or "" in path:
        known = ", ".join(each.form for each in FIELDS.values())
        raise InvalidInput(f"unknown field {written[:80]!r}; known are {known}")
    return "shadow", Field("shadow", _checked_path(path))


def parse_field(written: str) -> Field | None:
    """Return the field that a text names, `None` if it names none."""
    try:
        return _field(written)[1]
    except InvalidInput:
        return None


def check_saved_name(name: object) -> str:
    """Return the name if a saved filter may have it. Raises `InvalidInput` otherwise."""
    if not isinstance(name, str) or not _SAVED_NAME.fullmatch(name):
        raise InvalidInput("a saved filter's name has 1 to 64 letters, digits, _, - and ., and begins with no . or -")
    return name


def read_values(written: str) -> tuple[Value, ...]:
    """Return the values that stand behind an operator. Raises `InvalidInput`."""
    values: list[Value] = []
    rest = written
    while True:
        rest = rest.lstrip()
        match = _QUOTED.match(rest) or _BARE.match(rest)
        if match is None:
            _refuse_value(rest)
        values.append(Value(_unescaped(match[1]), quoted=True) if match.re is _QUOTED else _bare(match[0].rstrip()))
        rest = rest[match.end() :].lstrip()
        if not rest:
            return tuple(values)
        if not rest.startswith("|"):
            _refuse_value(rest)
        rest = rest[1:]


def _bare(text: str) -> Value:
    """Return a value without quotes. Text with spaces is the same as in quotes: it is no JSON scalar."""
    return Value(text, quoted=SAFE_BARE.fullmatch(text) is None)


def _refuse_value(rest: str) -> NoReturn:
    if not rest or rest.startswith("|"):
        raise InvalidInput('a value is missing; the empty text is written ""')
    if rest.startswith('"'):
        raise InvalidInput("a quote is not closed")
    if rest.startswith("*"):
        raise InvalidInput('only =* and !=* have a bare *; as part of a value it is quoted: "a*"')
    raise InvalidInput(f'text with | < > ! * " \\, or with = or ~ in front, is quoted: {rest[:80]!r}')


def _ids(value: Value) -> Iterable[Value]:
    """Return the ids of a list with commas, which no id contains."""
    if value.quoted:
        return (value,)
    ids = tuple(Value(each.strip()) for each in value.text.split(","))
    if not all(each.text for each in ids):
        raise InvalidInput("an id is missing beside a comma")
    return ids


def parse_place(text: str) -> tuple[str, ...]:
    r"""Return the keys that lead to a place in the shadow, the section first. Raises `InvalidInput`.

    >>> parse_place(r"reported.sensors.1\.2")
    ('reported', 'sensors', '1.2')
    """
    if len(text) > MAX_TERM:
        raise InvalidInput(f"a place has at most {MAX_TERM} characters")
    path = split_keys(text)
    if len(path) < 2 or "" in path:
        raise InvalidInput(f"a place is written as in reported.sensors.t, not {text!r}")
    return _checked_path(path)


def _checked_path(path: list[str]) -> tuple[str, ...]:
    if path[0] not in _SECTIONS:
        raise InvalidInput(f"a shadow has desired, reported and delta, not {path[0]!r}")
    return tuple(path)


def split_keys(written: str) -> list[str]:
    r"""Return the keys of a path, ``a.b\.c``, without their backslashes."""
    return [_unescaped(part) for part in _KEYS.findall(written)]


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
