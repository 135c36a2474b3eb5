"""Prose has subjects, and a name stands for one thing: no pronoun for an unnamed person, no class name twice."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"

READ = ("src", "tests", "benchmarks", "docs")
"""The folders whose programs are read."""

ROLES = (
    "account|admin|administrator|attacker|author|browser|caller|client|developer|device|embedder|maintainer|operator"
    "|owner|peer|people|person|publisher|reader|subscriber|user|writer"
)

PRONOUN = re.compile(
    rf"\b(?:(?P<never>whoever|whomever|nobody|somebody|everybody|anybody)|(?<!-)(?P<role>(?:{ROLES})s?,?\s+)?whom?)\b",
    re.IGNORECASE,
)

PRONOUN_NAME = re.compile(
    rf"(?:\A|_)(?:whoever|nobody|somebody|everybody|anybody|(?P<role>(?:{ROLES})s?_)?whom?)(?=_|\Z)"
)
"""In the name of a function; ``a_user_who`` is a person with a role."""

FUNCTION = re.compile(r"^[ ]*(?:async )?def (\w+)", re.MULTILINE)

TYPE = re.compile(r"^(?:[ ]*class (\w+)|([A-Z][a-z]\w*)(?:: TypeAlias)? = )", re.MULTILINE)
"""A class, or an alias of a type."""

TWO_MEANINGS = re.compile(r"\bat\s+once\b", re.IGNORECASE)
"""Say *immediately*, or *at the same time*."""

CONSTANT_NAME = re.compile(r"^([A-Z][A-Z0-9_]+)(?=:| =)", re.MULTILINE)
"""A public constant; a type variable has one letter."""

PAGE_CONSTANT = re.compile(r"^(?:export )?const ([A-Z][A-Z0-9]+) =", re.MULTILINE)
"""One of JavaScript whose name is one word. Two modules of the dashboard may each have a constant of two words."""

PARALLEL = {"mdash_backends", "mdashcore/cli", "mdashcore/client", "mdashcore/virtual_device", "mdashcore/testing"}
"""Programs beside the service. Each may have a constant of the service once more, as a decision of its own."""

SAME_IN_EACH = {"SCAN_PAGE", "SCAN_PAGE_BYTES"}
"""Constants that every store has for itself."""

QUICK = re.compile(r"\b[Ww]ho(?:m|ever|mever)?\b|body\b")
"""What a file with a pronoun has at least. Most files have none, and are not parsed."""

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
    if not QUICK.search(source) or all(found["role"] for found in PRONOUN.finditer(source)):
        return []
    return sorted(
        (line + text.count("\n", 0, found.start()), found[0].split()[-1])
        for line, text in prose(source)
        for found in PRONOUN.finditer(text)
        if not found["role"]
    )


@cache
def programs(folder: str) -> dict[Path, str]:
    """Return the text of every Python file in a folder of the project."""
    return {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).rglob("*.py"))}


def free_names(source: str) -> list[tuple[int, str]]:
    """Return line and name of each function whose name has a pronoun that refers to no person with a role."""
    return [
        (source.count("\n", 0, found.start(1)) + 1, found[1])
        for found in FUNCTION.finditer(source)
        if any(not each["role"] for each in PRONOUN_NAME.finditer(found[1]))
    ]


def shared_names(names: Iterable[tuple[str, str]]) -> list[str]:
    """Return the names that stand in several places, with these places; takes pairs of a name and its place."""
    places: dict[str, set[str]] = {}
    for name, place in names:
        places.setdefault(name, set()).add(place)
    return [f"{name}: {', '.join(sorted(found))}" for name, found in sorted(places.items()) if len(found) > 1]


@pytest.mark.parametrize("folder", READ)
def test_no_pronoun_stands_for_an_unnamed_person(folder):
    """A comment or docstring names the caller, the driver, the peer or the operator, or it fails here."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path, source in programs(folder).items()
        for line, word in (*free_pronouns(source), *free_names(source))
    ]
    assert not found, "\n".join(["name the thing or the role:", *found])


@pytest.mark.parametrize("folder", READ)
def test_no_phrase_has_two_meanings(folder):
    """A comment or docstring says *immediately*, or *at the same time*."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path, source in programs(folder).items()
        if TWO_MEANINGS.search(source)
        for line, text in prose(source)
        if TWO_MEANINGS.search(text)
    ]
    assert not found, "\n".join(found)


def test_pages_are_written_by_the_same_rules():
    """Every page of the documentation, the README, the changelog and the guide for contributors."""
    found = []
    for path in (*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        words = [each for each in PRONOUN.finditer(text) if not each["role"]] if QUICK.search(text) else []
        words += TWO_MEANINGS.finditer(text)
        found += [f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, each.start()) + 1}: {each[0]}" for each in words]
    assert not found, "\n".join(sorted(found))


def test_a_class_name_stands_for_one_thing():
    """No two classes or type aliases of the source have the same name, private ones included."""
    found = shared_names(
        (name or alias, str(path)) for path, source in programs("src").items() for name, alias in TYPE.findall(source)
    )
    assert not found, "\n".join(["say in the name which of the two it is:", *found])


def test_a_constant_carries_its_noun():
    """A public constant stands in one module of the service; where two need the name, each adds its noun."""
    names: dict[str, list[tuple[str, str]]] = {}
    for path, source in programs("src").items():
        place = path.relative_to(SOURCE).as_posix()
        program = next((each for each in PARALLEL if place.startswith(f"{each}/")), "")
        names.setdefault(program, []).extend((name, place) for name in CONSTANT_NAME.findall(source))
    found = [
        each for places in names.values() for each in shared_names(places) if each.split(":")[0] not in SAME_IN_EACH
    ]
    page = sorted((SOURCE / "mdashcore" / "server" / "ui").rglob("*.js"))
    found += shared_names((name, str(path)) for path in page for name in PAGE_CONSTANT.findall(path.read_text("utf-8")))
    assert page
    assert not found, "\n".join(["add the noun:", *found])


def test_a_constant_that_prose_names_exists():
    """A constant that was renamed has its new name in comments and docstrings, too."""
    sources = programs("src")
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


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def test_who_waits(): ...", ["test_who_waits"]),
        ("async def nobody_comes(): ...", ["nobody_comes"]),
        ("def test_a_device_whose_shadow_is_damaged(): ...", []),
        ("def test_a_user_who_guesses(): ...", []),
        ("def test_the_whole(): ...", []),
    ],
)
def test_which_names_are_free(source, names):
    """A name of a function has a role before its pronoun, or fails."""
    assert [name for _, name in free_names(source)] == names


def test_which_names_are_shared():
    """Two places count, twice in one does not; a type variable and a private name are no public constants."""
    one = "LIMIT = 1\nPAGE: int = 2\n_STEP = 3\nSCAN_PAGE = 4\nT = 5\nclass A:\n    class B: ...\n"
    assert (CONSTANT_NAME.findall(one), TYPE.findall(one)) == (["LIMIT", "PAGE", "SCAN_PAGE"], [("A", ""), ("B", "")])
    assert TYPE.findall("Name = str\nBody: TypeAlias = bytes\nT = int\nLIMIT = 1\n") == [("", "Name"), ("", "Body")]
    assert shared_names([("A", "x"), ("A", "y"), ("B", "x"), ("B", "x")]) == ["A: x, y"]
