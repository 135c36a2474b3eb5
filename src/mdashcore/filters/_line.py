"""A filter on one line: terms and words with spaces between them, and saved filters by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from mdashcore._errors import InvalidInput
from mdashcore.filters._parser import CONDITION, SAVED_MARK, checked, read_term, read_values
from mdashcore.filters._terms import Field, Term, format_term

__all__ = ["MAX_FILTER_LINE", "MAX_TERMS", "format_line", "parse_line", "saved_terms", "split_line"]

MAX_FILTER_LINE: Final = 1024  # characters of a filter on one line: more than fits into the page's field

MAX_TERMS: Final = 16  # of a filter: each is evaluated for each device

_TOKEN = re.compile(r'(?:\\.|[^\s"\\]|"(?:\\.|[^"\\])*")+', re.DOTALL)


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
            terms.append(checked(_word(token) or read_term(token)))
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
    if words in ("online", "offline") or words.startswith(SAVED_MARK) or CONDITION.fullmatch(words):
        return None
    if words.startswith(("shadow.", "tag.")):
        raise InvalidInput(f"{words[:80]} needs an operator; {words[:80]}=* asks whether it exists")
    values = read_values(words)
    if any(not value.quoted and re.search("[=~]", value.text) for value in values):
        return None
    if not all(value.text for value in values):
        raise InvalidInput("empty quotes are no word")
    return Term(Field("text"), "~", values, token.startswith("!"))


def format_line(terms: Iterable[Term]) -> str:
    """Return the terms on one line, each in its canonical form."""
    return " ".join(map(format_term, terms))
