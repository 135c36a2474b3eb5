"""The grammar of filters."""

from __future__ import annotations

import pytest
from filter_cases import CASES, WRONG
from hypothesis import example, given
from hypothesis import strategies as st

from mdashcore._errors import InvalidInput
from mdashcore.filters import (
    FIELDS,
    Field,
    Term,
    Value,
    format_line,
    format_term,
    parse_line,
    parse_place,
    parse_term,
    split_line,
)
from mdashcore.filters._fields import FIRMWARE_FIELDS
from mdashcore.filters._line import MAX_FILTER_LINE, MAX_TERMS
from mdashcore.filters._parser import MAX_TERM

TEXT = st.text(max_size=12) | st.text('\\"|<>!*=~ .@\n', max_size=8)
KEY = TEXT.filter(bool)


@st.composite
def terms(draw: st.DrawFn) -> Term:
    """Any term that the grammar can say, in the form in which it is parsed."""
    form = draw(st.sampled_from(sorted(set(FIELDS) - set(FIRMWARE_FIELDS))))
    path = {"tag.": st.tuples(KEY), "shadow": st.tuples(st.sampled_from(["desired", "reported"]), KEY, KEY)}
    field = Field(form, draw(path.get(form, st.just(()))))
    if form == "shadow" and draw(st.booleans()):
        field = Field(form, ("reported", "ota", draw(st.sampled_from(FIRMWARE_FIELDS))))
    operator = draw(st.sampled_from([each for each in FIELDS[form].operators.split() if not each.startswith("!")]))
    negated = draw(st.booleans())
    if operator == "*":
        return Term(field, operator, (), negated)
    known = [str(each) for each in FIELDS[form].values] if operator == "=" else []
    if known:
        return Term(field, operator, tuple(map(Value, draw(st.lists(st.sampled_from(known), min_size=1)))), negated)
    if FIELDS[form].is_age:
        words = ["true", "false"] if operator == "=" else ["90s", "1.5h", "7d"]
        return Term(field, operator, (Value(draw(st.sampled_from(words))),), negated)
    if form == "presence_changes":
        return Term(field, operator, (Value(str(draw(st.integers(0, 1000)))),), negated)
    bare = st.from_regex(r"[A-Za-z0-9_.:+-]{1,9}", fullmatch=True).map(Value)
    value = bare | TEXT.map(lambda text: Value(text, quoted=True))
    most = 3 if operator in ("=", "~") else 1
    return Term(field, operator, tuple(draw(st.lists(value, min_size=1, max_size=most))), negated)


@given(terms())
@example(Term(Field("shadow", ("reported", "a ")), "=", (Value("", quoted=True),)))
def test_what_is_written_is_parsed_as_the_same(term):
    """The canonical form of a term is parsed as an equal term, alone and on a line."""
    written = format_term(term)
    assert parse_term(written) == term
    assert parse_term(f"  {written} ") == term
    assert parse_line(written) == (term,)


@given(st.lists(terms(), max_size=4))
def test_a_line_is_parsed_as_its_terms(given):
    """Terms with a space between them are a line."""
    assert parse_line(format_line(given)) == tuple(given)


@given(st.text(max_size=40) | st.text('ab.\\"|<>!*=~ @5mtag', max_size=20))
def test_any_text_is_a_line_or_refused(text):
    """Nothing but `InvalidInput` is raised, and what is parsed can be written and parsed again."""
    for parse, write in ((parse_line, format_line), (lambda text: (parse_term(text),), format_line)):
        try:
            found = parse(text)
        except InvalidInput:
            continue
        assert parse_line(write(found)) == found


@pytest.mark.parametrize("line", CASES)
def test_canonical_forms_are_stable(line):
    """Writing, parsing and writing again changes nothing."""
    written = format_line(parse_line(line))
    assert format_line(parse_line(written)) == written


@pytest.mark.parametrize(("line", "words"), WRONG.items())
def test_what_is_no_filter_is_refused(line, words):
    """The error says why, for people."""
    with pytest.raises(InvalidInput) as caught:
        parse_line(line)
    assert words in str(caught.value)


@pytest.mark.parametrize("term", ["", 5, None, "hall", "arch", "@saved", "online offline"])
def test_words_are_no_terms(term):
    """Where single terms are given, as in a request, a word is a mistake."""
    with pytest.raises(InvalidInput):
        parse_term(term)


def test_a_term_alone_may_hold_spaces():
    """In a request a term stands alone, so that spaces need no quotes there; they are written with quotes."""
    assert str(parse_term(" name = Lamp in the hall | fan ")) == 'name="Lamp in the hall"|fan'


@pytest.mark.parametrize(
    "line",
    [
        "x" * (MAX_TERM + 1),
        "id=" + "|".join(["x"] * MAX_TERM),
        'name="' + '\\"' * MAX_TERM,
        "name=x" + " x" * (MAX_TERM // 2 - 3),  # as long as allowed, but not with its quotes
        "shadow.reported" + ".a" * MAX_TERM + "=1",
        "!" * MAX_FILTER_LINE,
        "\\" * MAX_FILTER_LINE,
        '"' * (MAX_FILTER_LINE - 1),
        "a " * (MAX_TERMS + 1),
        "x" * (MAX_FILTER_LINE + 1),
        "(" * 10**6,
    ],
)
def test_hostile_sizes_are_refused(line):
    """Whatever is longer than a bound is refused, in a time that grows with its length."""
    with pytest.raises(InvalidInput):
        parse_term(line)
    if not line.startswith("name=x x"):
        with pytest.raises(InvalidInput):
            parse_line(line)


def test_a_line_is_split_where_nothing_is_quoted():
    """Quotes and backslashes keep spaces."""
    assert split_line(r'a  name="b c"|"d \" e" shadow.reported.f\ g=1') == [
        "a",
        r'name="b c"|"d \" e"',
        r"shadow.reported.f\ g=1",
    ]


def test_a_place():
    """A place is a section and keys below it."""
    assert parse_place(r"reported.sensors.1\.2") == ("reported", "sensors", "1.2")
    for text in ("reported", "other.a", "reported..a", "reported." + "a" * MAX_TERM):
        with pytest.raises(InvalidInput):
            parse_place(text)
