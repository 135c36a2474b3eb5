"""Writes the tables of reference/rest_api.md from the table of endpoints and the types of documents.

::

    python docs/rest_api.py            write them
    python docs/rest_api.py --check    fail if they are not what would be written

A table of the page stands between two marks. The heading above it names the endpoint; a document is named by the mark.
An endpoint with the tables of an earlier one refers to that.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required, get_args, get_origin, get_type_hints, is_typeddict

from msgspec import Meta

from mdashcore import documents
from mdashcore.server.endpoints import Endpoint, Form
from mdashcore.server.openapi import ALL_ENDPOINTS, errors_of

PAGE = Path(__file__).parent / "reference" / "rest_api.md"

BEGIN = "begin (python docs/rest_api.py writes this)"


def shown_path(endpoint: Endpoint) -> str:
    """The path as the page writes it: `/api/v2/devices/:id`."""
    return re.sub(r"<(\w+)>", r":\1", endpoint.path)


def heading_of(endpoint: Endpoint) -> str:
    """The heading of an endpoint: method and path."""
    return f"{endpoint.method} {shown_path(endpoint)}"


def link(heading: str) -> str:
    """A link to an endpoint on the page."""
    anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
    return f"[`{heading}`](#{anchor})"


def overview(page: str) -> Iterator[str]:
    """A row for each endpoint, in the order of the page."""
    yield "| Endpoint | | For | Answers | Errors |"
    yield "|---|---|---|---|---|"
    for endpoint in sorted(ALL_ENDPOINTS, key=lambda each: page.find(f"\n### `{heading_of(each)}`\n")):
        heading = heading_of(endpoint)
        errors = [status for status in errors_of(endpoint) if status in endpoint.errors or status == 404]
        summary = re.split(r"(?<=[a-z`])[.:] ", f"{endpoint.summary} ", maxsplit=1)[0].strip().removesuffix(".")
        yield (
            f"| {link(heading)} | {_cell(summary)} | {endpoint.access.value}"
            f" | {', '.join(map(str, endpoint.answers))} | {', '.join(map(str, errors)) or '-'} |"
        )


def endpoint_tables(endpoint: Endpoint) -> Iterator[str]:
    """The members of the body, and the parameters."""
    body = endpoint.body
    if isinstance(body, Form):
        for name, type_ in get_type_hints(body.fields).items():
            if type_ is not bytes:
                yield f"The field `{name}`:"
                yield ""
                yield from members(type_, "Member")
                yield ""
    elif is_typeddict(body):
        yield from members(body, "Body member")
        yield ""
    if endpoint.query is not None:
        yield from members(endpoint.query, "Parameter")
        yield ""


def members(document: Any, heading: str) -> Iterator[str]:
    """A row for each member of a `TypedDict`. Those that have the same words share one."""
    rows: list[tuple[list[str], str, str]] = []
    for name, hint in get_type_hints(document, include_extras=True).items():
        meta = _meta(hint)
        default = (meta.extra_json_schema or {}).get("default", ...) if meta else ...
        shown = (
            "" if default is ... else f"`{default if isinstance(default, str) and default else json.dumps(default)}`"
        )
        words = "; ".join(filter(None, [meta.description if meta and meta.description else "", _bounds(hint)]))
        if rows and words and not shown and rows[-1][1:] == (shown, words):
            rows[-1][0].append(name)
        else:
            rows.append(([name], shown, words))
    with_default = any(shown for _, shown, _ in rows)
    yield f"| {heading} | Default | |" if with_default else f"| {heading} | |"
    yield "|---|---|---|" if with_default else "|---|---|"
    for names, shown, words in rows:
        first = ", ".join(f"`{name}`" for name in names)
        yield (
            f"| {first} | {shown + ' ' if shown else ''}| {_cell(words)} |"
            if with_default
            else f"| {first} | {_cell(words)} |"
        )


def _metas(hint: Any) -> Iterator[Meta]:
    """Every description in a type, the outermost first."""
    if get_origin(hint) is Annotated:
        yield from (each for each in reversed(hint.__metadata__) if isinstance(each, Meta))
        hint = hint.__origin__
    if get_origin(hint) in (Required, NotRequired) or get_args(hint):
        for part in get_args(hint):
            yield from _metas(part)


def _meta(hint: Any) -> Meta | None:
    return next(_metas(hint), None)


def _bounds(hint: Any) -> str:
    """The bounds of a number, in words."""
    for meta in _metas(hint):
        if meta.ge is not None and meta.le is not None:
            return f"{meta.ge:g} to {_number(meta.le)}"
        if meta.gt is not None and meta.le is not None:
            return f"above {meta.gt:g}, at most {_number(meta.le)}"
    return ""


def _number(value: float) -> str:
    return "2^63 - 1" if value == 2**63 - 1 else f"{value:.0f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def written(page: str) -> str:
    """The page with its tables as the code has them."""
    by_heading = {heading_of(each): each for each in ALL_ENDPOINTS}
    parts = re.split(r"(?m)^(### `\w+ /\S*`)$", page)
    shown: dict[str, str] = {}
    for index, part in enumerate(parts):
        heading = re.fullmatch(r"### `(.*)`", parts[index - 1]) if index else None
        endpoint = by_heading.get(heading[1]) if heading else None
        if endpoint is not None:
            tables = "\n".join(endpoint_tables(endpoint)).strip()
            first = shown.setdefault(tables, heading_of(endpoint))
            repeated = first != heading_of(endpoint)
            part = _between(part, "endpoint", _referring(endpoint, first) if repeated else tables)
        part = _between(part, "endpoints", "\n".join(overview(page)))
        for name in re.findall(r"<!-- document (\w+): begin", part):
            part = _between(part, f"document {name}", "\n".join(members(getattr(documents, name), "Member")))
        parts[index] = part
    return "".join(parts)


def _referring(endpoint: Endpoint, first: str) -> str:
    has_members = isinstance(endpoint.body, Form) or is_typeddict(endpoint.body)
    names = ["body"] * has_members + ["parameters"] * (endpoint.query is not None)
    return f"The {' and the '.join(names)}: as for {link(first)}."


def _between(text: str, mark: str, table: str) -> str:
    pattern = re.compile(rf"(<!-- {mark}: begin [^\n]*-->\n).*?(<!-- {mark}: end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}\n{table}\n\n{match[2]}", text)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    new = written(page)
    if sys.argv[1:] == ["--check"]:
        sys.exit("the tables of docs/reference/rest_api.md are old: run python docs/rest_api.py" if new != page else 0)
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
