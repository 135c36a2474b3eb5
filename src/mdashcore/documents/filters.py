"""Filters of devices: saved ones, and the parts of one that is being typed."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, Required, TypedDict

from msgspec import Meta

from mdashcore.documents._members import DeviceId, member
from mdashcore.documents.devices import TagPatch

__all__ = [
    "CompletionDocument",
    "FilterTermsDocument",
    "FilterTermsQuery",
    "FilterToSave",
    "SavedFilterDocument",
    "TagsChange",
    "TagsChanged",
    "TermDocument",
    "ValueDocument",
]


class SavedFilterDocument(TypedDict):
    """A saved filter."""

    name: str
    filter: Annotated[str, member("its terms on one line")]


class FilterToSave(TypedDict, total=False):
    """A filter to save."""

    filter: Required[Annotated[str, member("terms on one line, with spaces between them", max_length=1024)]]


class FilterTermsQuery(TypedDict, total=False):
    """A filter to parse."""

    text: Annotated[str, member("the filter on one line", "")]
    typed: Annotated[str, member("the text before the cursor; with it, the answer says how that can be completed")]


class ValueDocument(TypedDict):
    """A value of a term."""

    text: str
    scalar: NotRequired[Annotated[Any, member("the number, boolean or null that it is in JSON")]]


class TermDocument(TypedDict):
    """A term of a filter."""

    text: Annotated[str, member("the term in its canonical form")]
    field: Annotated[
        str,
        member(
            "`id`, `name`, `text`, `online`, `offline`, `last_seen`, `created_at`, `update`, `presence_changes`, "
            "`damaged`, `tag`, `tag.` or `shadow`"
        ),
    ]
    path: Annotated[list[str], member("the keys in the shadow, or the name of the tag")]
    operator: Annotated[str, member("`=`, `~`, `<`, `<=`, `>`, `>=`, or `*`: the field exists")]
    negated: Annotated[bool, member("whether the term holds where the rest of it does not")]
    values: Annotated[list[ValueDocument], member("one of them has to fit")]
    seconds: NotRequired[Annotated[float, member("the age that is compared, in place of a value")]]


class CompletionDocument(TypedDict):
    """What the text before the cursor can become."""

    kept: Annotated[str, member("the text in front of the word that is being typed")]
    prefix: Annotated[str, member("the word so far")]
    kind: Annotated[
        str,
        member("`field`: the beginning of a term; `key`: a key in a field; `value`; `saved`: a saved filter's name"),
    ]
    words: Annotated[list[str], member("what the grammar has for this place, as it is written")]
    field: Annotated[str | None, member("for a value and a key: the field, as in a term")]
    path: Annotated[list[str], member("its keys so far")]


class FilterTermsDocument(TypedDict):
    """The terms of a filter."""

    terms: Annotated[list[TermDocument], member("with those of saved filters; empty if it is not understood")]
    error: Annotated[str | None, member("why it is not understood, for people")]
    completion: Annotated[CompletionDocument | None, member("`null` where nothing can be completed")]


class TagsChange(TypedDict, total=False):
    """A change of the tags of many devices. One of `filter`, `devices` and `all` is needed."""

    tags: Required[Annotated[TagPatch, member("merged into the tags of each device, as in a change of one")]]
    filter: Annotated[list[str], member("terms that have to hold", max_length=16)]
    devices: Annotated[
        Annotated[list[DeviceId], Meta(min_length=1, max_length=20_000)] | None,
        member("ids, of which the filter picks; `null` as if not given"),
    ]
    all: Annotated[bool, member("every device, in place of `filter` and `devices`", False)]
    preview: Annotated[bool, member("whether nothing is changed, only counted", False)]


class TagsChanged(TypedDict):
    """How many devices have changed."""

    devices: Annotated[int, member("devices that were selected", ge=0)]
    changed: Annotated[int, member("those with other tags now; with `preview`, those that would have", ge=0)]
    refused: Annotated[list[str], member("ids of up to 100 devices that would have more than 32 tags, unchanged")]
