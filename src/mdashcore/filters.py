r"""The grammar of filters: the terms by which people choose devices, parsed and written.

A filter is a list of terms, all of which have to hold. A term is text of this form; ``|`` separates alternatives::

    term      = ["!"] condition                     "!" is "not"
    condition = "online" / "offline"
              / field operator value *("|" value)   any of the values
              / field ("=" / "!=") "*"              the field exists, or does not
    operator  = "=" / "!=" / "~" / "!~" / "<" / "<=" / ">" / ">="
    value     = bare / quoted
    quoted    = DQUOTE *(any character; backslash before a DQUOTE or a backslash) DQUOTE

A bare value has none of ``| < > ! * " \`` and does not begin with ``=`` or ``~``. `FIELDS` lists the fields with the
operators that each takes. A dot, or a character of an operator, that belongs to a key is written with a backslash
before it: ``shadow.reported.a\.b``.

On one line (`parse_line`) spaces separate terms, so that values with spaces are quoted, and a word without an operator
stands for ``text~WORD``. `format_term` writes the one canonical form of a term, which is valid on a line too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NoReturn

import attrs

from mdashcore import _json
from mdashcore._errors import InvalidInput

__all__ = ["FIELDS", "Field", "FieldType", "Term", "Value"]
__all__ += ["check_saved_name", "format_line", "format_term", "parse_line", "parse_place", "parse_term", "split_line"]

MAX_TERM: Final = 512  # characters: a path of ten keys and a value; longer lists of ids go into `devices`

MAX_FILTER_LINE: Final = 1024  # characters of a filter on one line: more than fits into the page's field

MAX_TERMS: Final = 16  # of a filter: each is evaluated for each device

MAX_AGE: Final = 10 * 365 * 86_400.0  # seconds: ten years, longer than a device's record is of use

SAVED_MARK: Final = "@"
"""Begins the name of a saved filter where a term may stand."""

FIRMWARE_FIELDS: Final = ("app", "arch", "fw_id", "fw_version")
"""Values of ``reported.ota`` with a short name."""

_SECTIONS: Final = ("desired", "reported", "delta")
_SECONDS: Final = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800})

_CONDITION = re.compile(r"""((?:\\.|[^=!~<>|"\\])+)(!=|!~|<=|>=|=|~|<|>)(.*)""", re.DOTALL)
_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_BARE = re.compile(r'[^|<>!*"\\=~][^|<>!*"\\]*', re.DOTALL)
_SAFE_BARE = re.compile(r'[^|<>!*"\\=~\s][^|<>!*"\\\s]*')
_KEYS = re.compile(r"(?:^|\.)((?:\\.|[^.\\])*)", re.DOTALL)
_ESCAPED_IN_KEYS = re.compile(r'[.\\=!~<>|"*@\s]')
_TOKEN = re.compile(r'(?:\\.|[^\s"\\]|"(?:\\.|[^"\\])*")+', re.DOTALL)
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhdw])", re.ASCII)
_SAVED_NAME = re.compile(r"(?![.-])[\w.-]{1,64}")
_PIECE = re.compile(r"\\.|[^\\]", re.DOTALL)

_SYNTAX: Final = "a filter's term is online, offline or FIELD=VALUE, with any of = != ~ !~ < <= > >="


@attrs.frozen
class FieldType:
    """A field, or a family of fields, that a term can read."""

    form: str
    """How it is written, for people."""
    operators: str
    """The operators that it takes, separated by spaces; ``*`` stands for ``=*`` and ``!=*``."""
    holds: str
    """What it reads, for people, in Markdown."""
    is_age: bool = False
    """Whether ``<`` and its kin compare an age, such as ``5m``."""


_ORDER: Final = "< <= > >="
_EQUAL: Final = "= != ~ !~ *"
_ANY: Final = f"= != ~ !~ {_ORDER} *"

FIELDS: Final = MappingProxyType(
    {
        "id": FieldType("id", _EQUAL, "the id; `id=a,b` is `id=a|b`"),
        "name": FieldType("name", _EQUAL, "the name"),
        "text": FieldType("text", "~ !~", "the id or the name"),
        "online": FieldType("online", f"= != {_ORDER}", "connected now; how long it has been", is_age=True),
        "offline": FieldType("offline", _ORDER, "how long it has not been connected", is_age=True),
        "last_seen": FieldType(
            "last_seen", f"{_ORDER} *", "how long ago the server heard of it; now, while it is connected", is_age=True
        ),
        "created_at": FieldType("created_at", f"{_ORDER} *", "how long ago it was registered", is_age=True),
        "tag": FieldType("tag", _EQUAL, "the names of its tags"),
        "tag.": FieldType("tag.NAME", _ANY, "the value of a tag"),
        "app": FieldType("app", _ANY, "the name of the firmware that it reports"),
        "arch": FieldType("arch", _ANY, "the platform that it reports"),
        "fw_id": FieldType("fw_id", _ANY, "the build that it reports"),
        "fw_version": FieldType("fw_version", _ANY, "the version of the firmware that it reports"),
        "shadow": FieldType(
            "shadow.PLACE",
            _ANY,
            "any place in the shadow, in `reported`, `desired` or `delta`: `shadow.reported.stats.ram_free`",
        ),
    }
)
"""The fields by name. ``tag.`` and ``shadow`` are families, whose path says which one."""


@attrs.frozen
class Field:
    """A field of a device."""

    name: str
    """``id``, ``name``, ``text``, ``online``, ``offline``, ``last_seen``, ``created_at``, ``tag``, ``tag.`` or
    ``shadow``. The short names of firmware are places in the shadow."""
    path: tuple[str, ...] = ()
    """For ``shadow`` the keys that lead to the value; for ``tag.`` the name of the tag; else empty."""


@attrs.frozen
class Value:
    """A value that a term compares with."""

    text: str
    quoted: bool = False
    """Whether it is text in any case. A bare value is also a number, a boolean or null, if it reads as one in JSON."""

    @property
    def scalars(self) -> tuple[object, ...]:
        """The JSON scalar that the text stands for, if any."""
        if self.quoted:
            return ()
        try:
            value = _json.decode(self.text)
        except InvalidInput:
            return ()
        return () if isinstance(value, dict | list | str) else (value,)

    @property
    def seconds(self) -> float:
        """The age that the text stands for: ``90s``, ``5m``, ``1.5h``, ``7d``, ``2w``. Raises `InvalidInput`."""
        match = None if self.quoted else _AGE.fullmatch(self.text)
        if match is None or (seconds := float(match[1]) * _SECONDS[match[2]]) > MAX_AGE:
            raise InvalidInput(f"an age is a number with s, m, h, d or w, at most ten years: 5m; not {self.text!r}")
        return seconds


@attrs.frozen
class Term:
    """One condition of a filter."""

    field: Field
    operator: str
    """``=``, ``~``, ``<``, ``<=``, ``>``, ``>=``, or ``*``: the field exists."""
    values: tuple[Value, ...] = ()
    """The term holds if one of them fits; none with ``*``."""
    negated: bool = False

    @property
    def is_age(self) -> bool:
        """Whether its value is an age."""
        return FIELDS[self.field.name].is_age and self.operator not in ("=", "*")

    def __str__(self) -> str:
        return format_term(self)


# Parsing


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
    return _checked(_parse(text.strip()))


def _checked(term: Term) -> Term:
    if len(format_term(term)) > MAX_TERM:  # its quotes and backslashes count: the canonical form can be parsed, too
        raise InvalidInput(f"a filter's term has at most {MAX_TERM} characters, with its quotes")
    return term


def _parse(text: str) -> Term:
    negated = text.startswith("!")
    condition = text.removeprefix("!").strip()
    if condition in ("online", "offline"):
        return Term(Field("online"), "=", (Value("true" if condition == "online" else "false"),), negated)
    if condition.startswith(SAVED_MARK):
        negated_words = ", nor with ! before it" if negated else ""
        raise InvalidInput(f"a saved filter cannot be used here{negated_words}: {condition[:80]!r}")
    match = _CONDITION.fullmatch(condition)
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
    values = _values(written)
    if field.name == "id" and operator == "=":
        values = tuple(each for value in values for each in _ids(value))
    if operator not in ("=", "~"):
        if len(values) > 1:
            raise InvalidInput(f"{operator} takes one value, not several with | between them")
        if FIELDS[name].is_age:
            _ = values[0].seconds
    elif name == "online" and values not in ((Value("true"),), (Value("false"),)):
        raise InvalidInput("online is true or false, or an age: online<5m")
    return Term(field, operator, values, negated)


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


def _values(written: str) -> tuple[Value, ...]:
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
    return Value(text, quoted=_SAFE_BARE.fullmatch(text) is None)


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


# On one line


def split_line(text: str) -> list[str]:
    """Return the terms and words of a line as they are written. Raises `InvalidInput`.

    >>> split_line('hall  name="Lamp in the hall" online')
    ['hall', 'name="Lamp in the hall"', 'online']
    """
    if len(text) > MAX_FILTER_LINE:
        raise InvalidInput(f"a filter has at most {MAX_FILTER_LINE} characters")
    tokens, at = [], 0
    for match in _TOKEN.finditer(text):
        if text[at : match.start()].strip():
            break
        tokens.append(match[0])
        at = match.end()
    if text[at:].strip():
        raise InvalidInput("a quote is not closed, or a backslash stands at the end")
    if len(tokens) > MAX_TERMS:
        raise InvalidInput(f"a filter has at most {MAX_TERMS} terms")
    return tokens


def parse_line(text: str, saved: Mapping[str, str] | None = None) -> tuple[Term, ...]:
    """Return the terms of a filter that is written on one line. Raises `InvalidInput`.

    Args:
        saved: the lines of saved filters by name, whose terms stand for ``@NAME``; `None` where none may stand.

    >>> format_line(parse_line('hall !online "two words"'))
    'text~hall !online text~"two words"'
    """
    terms: list[Term] = []
    for token in split_line(text):
        if saved is not None and token.startswith(SAVED_MARK):
            terms += saved_terms(token, saved)
        else:
            terms.append(_checked(_word(token) or _parse(token)))
        if len(terms) > MAX_TERMS:
            raise InvalidInput(f"a filter has at most {MAX_TERMS} terms, with those of saved filters")
    return tuple(terms)


def saved_terms(token: str, saved: Mapping[str, str]) -> tuple[Term, ...]:
    """Return the terms for which ``@NAME`` stands. Raises `InvalidInput` if no filter is saved under the name."""
    name = token.removeprefix(SAVED_MARK)
    if name not in saved:
        raise InvalidInput(f"no filter is saved as {name[:80]!r}")
    return parse_line(saved[name])


def _word(token: str) -> Term | None:
    """Return the term for words that are looked for in ids and names; `None` if the token is to be read as a term."""
    words = token.removeprefix("!")
    if words in ("online", "offline") or words.startswith(SAVED_MARK) or _CONDITION.fullmatch(words):
        return None
    if words.startswith(("shadow.", "tag.")):
        raise InvalidInput(f"{words[:80]} needs an operator; {words[:80]}=* asks whether it exists")
    values = _values(words)
    if any(not value.quoted and re.search("[=~]", value.text) for value in values):
        return None
    if not all(value.text for value in values):
        raise InvalidInput("empty quotes are no word")
    return Term(Field("text"), "~", values, token.startswith("!"))


# Writing


def format_line(terms: Iterable[Term]) -> str:
    """Return the terms on one line, each in its canonical form."""
    return " ".join(map(format_term, terms))


def format_term(term: Term) -> str:
    """Return the canonical form of a term: `parse_term` reads it as an equal term, and a line may contain it."""
    sign = "!" if term.negated else ""
    if term.field.name == "online" and term.operator == "=":
        return sign + ("online" if term.values == (Value("true"),) else "offline")
    field = format_field(term.field)
    if term.operator == "*":
        return f"{field}{sign}=*"
    values = "|".join(map(format_value, term.values))
    return (
        f"{field}{sign}{term.operator}{values}"
        if term.operator in ("=", "~")
        else f"{sign}{field}{term.operator}{values}"
    )


def format_field(field: Field) -> str:
    """Return a field as a term names it."""
    if not field.path:
        return field.name
    if field.path[:2] == ("reported", "ota") and field.path[2:] in [(each,) for each in FIRMWARE_FIELDS]:
        return field.path[2]
    keys = ".".join(_ESCAPED_IN_KEYS.sub(r"\\\g<0>", key) for key in field.path)
    return f"{field.name.rstrip('.')}.{keys}"


def format_value(value: Value) -> str:
    """Return a value as a term contains it: quoted if it was, or if it has to be."""
    if value.quoted or not _SAFE_BARE.fullmatch(value.text):
        return '"' + re.sub(r'["\\]', r"\\\g<0>", value.text) + '"'
    return value.text
