"""``/filters``: saved filters, and the grammar of filters for pages that have a field for one."""

from __future__ import annotations

from typing import Literal

from quart import Response, request

from mdashcore import filter_completion, filters, selection
from mdashcore._errors import InvalidInput
from mdashcore.documents import (
    CompletionDocument,
    FilterTermsDocument,
    FilterTermsQuery,
    FilterToSave,
    SavedFilterDocument,
    TermDocument,
    ValueDocument,
)
from mdashcore.filters import Term, Value
from mdashcore.server.api._request import answer, body_object, members, principal, service
from mdashcore.server.endpoints import API, SMALL_BODY, Routes
from mdashcore.trio.shielding import shielded

routes: Routes = Routes(API, name=str)


@routes.get("/filters", answers={200: list[SavedFilterDocument]})
async def list_filters() -> Response:
    """List the account's saved filters by name."""
    saved = await service().hub.saved_filters.of(principal().account)
    return answer([_saved(name, line) for name, line in saved.items()])


@routes.put(
    "/filters/<name>",
    body=FilterToSave,
    max_body=SMALL_BODY,
    answers={200: SavedFilterDocument, 201: SavedFilterDocument},
    errors=(409,),
)
async def save_filter(name: str) -> Response:
    """Save a filter under a name, in place of an earlier one."""
    value = await body_object()
    members(value, FilterToSave)
    account, saved = principal().account, service().hub.saved_filters
    is_new = await shielded(lambda: saved.save(account, name, value.get("filter")))
    return answer(_saved(name, value["filter"]), 201 if is_new else 200)


@routes.delete("/filters/<name>", answers={200: Literal[True]})
async def remove_filter(name: str) -> Response:
    """Remove a saved filter. Rollouts that were begun with it stay as they are."""
    account, saved = principal().account, service().hub.saved_filters
    await shielded(lambda: saved.remove(account, name))
    return answer(True)


@routes.get("/filter-terms", query=FilterTermsQuery, answers={200: FilterTermsDocument})
async def parse_filter() -> Response:
    """Answer with the terms of a filter on one line, or why it is not understood, and how it can be completed."""
    text, typed = request.args.get("text", ""), request.args.get("typed")
    saved = await service().hub.saved_filters.of(principal().account)
    document: FilterTermsDocument = {"terms": [], "error": None, "completion": None}
    try:
        terms = filters.parse_line(text, saved)
        selection.check_work(terms)
        document["terms"] = [_term(each) for each in terms]
    except InvalidInput as exc:
        document["error"] = str(exc)
    if typed is not None:
        document["completion"] = _completion(typed)
    return answer(document)


def _saved(name: str, line: str) -> SavedFilterDocument:
    return {"name": name, "filter": line}


def _term(term: Term) -> TermDocument:
    field = term.field
    document: TermDocument = {
        "text": str(term),
        "field": field.name,
        "path": list(field.path),
        "operator": term.operator,
        "negated": term.negated,
        "values": [_value(each) for each in term.values],
    }
    if term.is_age:
        document["seconds"] = term.values[0].seconds
    return document


def _value(value: Value) -> ValueDocument:
    document: ValueDocument = {"text": value.text}
    for scalar in value.scalars:
        document["scalar"] = scalar
    return document


def _completion(typed: str) -> CompletionDocument | None:
    found = filter_completion.complete(typed)
    if found is None:
        return None
    return {
        "kept": found.kept,
        "prefix": found.prefix,
        "kind": found.kind,
        "words": list(found.words),
        "field": None if found.field is None else found.field.name,
        "path": [] if found.field is None else list(found.field.path),
    }
