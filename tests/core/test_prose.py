"""The prose of the source has subjects: no pronoun in a comment or docstring stands for an unnamed person."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

NOT_YET: frozenset[str] = frozenset()
"""Folders below `src` that still have free pronouns. Remove an entry as soon as its folder is clean; add none."""

ROLES = (
    "account|admin|administrator|attacker|author|browser|caller|client|developer|device|embedder|maintainer|operator"
    "|owner|peer|people|person|publisher|reader|subscriber|user|writer"
)

PRONOUN = re.compile(
    rf"\b(?:(?P<never>whoever|whomever|nobody|somebody|everybody|anybody)|(?<!-)(?P<role>(?:{ROLES})s?,?\s+)?whom?)\b",
    re.IGNORECASE,
)

CONSTANT = re.compile(r"(?<!`)`([A-Z][A-Z0-9]*_[A-Z0-9_]+|[A-Z]{3,})`(?!`)")
"""A constant in backquotes, as prose names it; in double ones it is a text, such as an environment variable."""


@cache
def nodes_of(source: str) -> list[ast.AST]:
    """Return all nodes of its syntax tree."""
    return list(ast.walk(ast.parse(source)))


@cache
def prose(source: str) -> list[tuple[int, str]]:
    """Return the line and the text of each docstring, also of attributes, and of each block of comments."""
    return list(_prose(source))


def _prose(source: str) -> Iterator[tuple[int, str]]:
    for node in nodes_of(source):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.lineno, value.value
    block: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and (token.start[0] > block[-1][0] + 1 or not token.line.lstrip().startswith("#")):
                yield _joined(block)
                block = []
            block.append((token.start[0], token.string.lstrip("#").strip()))
    if block:
        yield _joined(block)


def _joined(block: list[tuple[int, str]]) -> tuple[int, str]:
    return block[0][0], "\n".join(text for _, text in block)


def free_pronouns(source: str) -> list[tuple[int, str]]:
    """Return line and word of each pronoun that refers to no person with a role."""
    return sorted(
        (line + text.count("\n", 0, found.start()), found[0].split()[-1])
        for line, text in prose(source)
        for found in PRONOUN.finditer(text)
        if not found["role"]
    )


def folder_of(path: Path) -> str:
    """Return the folder of a file as `NOT_YET` names it; files directly in a package belong to the package."""
    folder, *rest = path.relative_to(SOURCE).parts[:-1]
    return "/".join((folder, *rest[:1]))


@cache
def findings() -> dict[str, list[str]]:
    """Return the free pronouns of each folder, as FILE:LINE: WORD."""
    found: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for line, word in free_pronouns(path.read_text(encoding="utf-8")):
            found.setdefault(folder_of(path), []).append(f"{path.relative_to(SOURCE.parent)}:{line}: {word}")
    return found


def test_no_pronoun_stands_for_an_unnamed_person():
    """A comment or docstring names the caller, the driver, the peer or the operator, or it fails here."""
    found = [each for folder, lines in findings().items() if folder not in NOT_YET for each in lines]
    assert not found, "\n".join(["name the thing or the role:", *found])


def test_the_list_of_exceptions_only_shrinks():
    """A folder that is clean has to leave `NOT_YET`."""
    assert sorted(NOT_YET - findings().keys()) == []


def test_a_constant_that_prose_names_exists():
    """A constant that was renamed has its new name in comments and docstrings, too."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    nodes = [node for source in sources.values() for node in nodes_of(source)]
    known = {node.id for node in nodes if isinstance(node, ast.Name)}
    known |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    unknown = [
        f"{path.relative_to(SOURCE.parent)}:{line}: {name}"
        for path, source in sources.items()
        for line, text in prose(source)
        for name in CONSTANT.findall(text)
        if name not in known
    ]
    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1  # for who does not wait", ["who"]),
        ("# Nobody waits.\n# Whoever is here\n# goes on.", ["Nobody", "Whoever"]),
        ('def f():\n    """Tell somebody."""', ["somebody"]),
        ('class A:\n    x: int = 1\n    """Seconds, whoever\n    asks."""', ["whoever"]),
        ('x = 1\n"""An attribute for anybody."""', ["anybody"]),
        ("# The caller, who knows the entries, decides. A person who reads it. Users\n# who wait.", []),
        ("# the device, or who else sends", ["who"]),
        ('x = "an error that nobody reads"', []),
        ("# the whole of it", []),
    ],
)
def test_what_is_found(source, words):
    """Comments and all docstrings are read, code and other strings are not; a role may have a relative clause."""
    assert [word for _, word in free_pronouns(source)] == words


def test_the_line_of_a_finding():
    """A finding inside a docstring or a block of comments has the line on which the word stands."""
    source = '"""Module.\n\nOf somebody.\n"""\n\n# One.\n# Of nobody.\n'
    assert free_pronouns(source) == [(3, "somebody"), (7, "nobody")]
