"""Saved filters: the filters of an account that have a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mdashcore import filters, selection
from mdashcore._errors import Conflict, InvalidInput, NotFound
from mdashcore.filters._line import saved_terms
from mdashcore.filters._parser import SAVED_MARK
from mdashcore.hub.records.contention import Contention
from mdashcore.hub.records.schema import SAVED_FILTERS, FilterRecord
from mdashcore.hub.records.store import Records
from mdashcore.storage import DocumentStore

__all__ = ["SavedFilters"]

MAX_SAVED_FILTERS: Final = 50  # of an account, in one record of 50 KB: more than fit above a list


class SavedFilters:
    """The saved filters of all accounts.

    Args:
        contention: how writers of the same record wait for each other.
    """

    def __init__(self, documents: DocumentStore, *, contention: Contention = Contention()) -> None:
        self._records = Records(documents, SAVED_FILTERS, contention=contention)

    async def of(self, account: str) -> Mapping[str, str]:
        """Return the lines of the account's filters by name, in the order of names."""
        found = await self._records.get(account)
        return {} if found is None else dict(sorted(found.value.lines.items()))

    async def save(self, account: str, name: str, line: object) -> bool:
        """Save a filter under a name, in place of an earlier one. Returns whether the name is new.

        Raises:
            InvalidInput: the name or the filter is not allowed. A saved filter refers to no other one.
            Conflict: the account has `MAX_SAVED_FILTERS`.
        """
        filters.check_saved_name(name)
        if not isinstance(line, str) or not (terms := filters.parse_line(line)):
            raise InvalidInput(
                'a saved filter is text on one line with at least one term, such as "offline tag=berlin"'
            )
        selection.check_work(terms)
        is_new = False

        def change(found: FilterRecord | None) -> FilterRecord:
            nonlocal is_new
            lines = {} if found is None else dict(found.lines)
            is_new = name not in lines
            if is_new and len(lines) >= MAX_SAVED_FILTERS:
                raise Conflict(f"the account has {MAX_SAVED_FILTERS} saved filters: remove one")
            return FilterRecord({**lines, name: line})

        await self._records.change(account, change)
        return is_new

    async def remove(self, account: str, name: str) -> None:
        """Remove a filter. Raises `NotFound`."""

        def change(found: FilterRecord | None) -> FilterRecord:
            if found is None or name not in found.lines:
                raise NotFound(f"no filter is saved as {name[:80]!r}")
            return FilterRecord({other: line for other, line in found.lines.items() if other != name})

        await self._records.change(account, change)

    async def resolve(self, account: str, terms: Any) -> Any:
        """Return a list of terms with the terms of saved filters in place of each ``@NAME``.

        Anything but a list of texts is returned as it is, for the parser to refuse. Raises `InvalidInput`, also as soon
        as there are too many terms.
        """
        if not isinstance(terms, Sequence) or isinstance(terms, str):
            return terms
        selection.check_number(terms)
        if not any(map(_is_saved, terms)):
            return terms
        saved = await self.of(account)
        resolved: list[Any] = []
        parsed: dict[str, list[str]] = {}  # by the saved filter's name, which may stand there several times
        for term in terms:
            if _is_saved(term):
                token = term.strip()
                if token not in parsed:
                    parsed[token] = [str(each) for each in saved_terms(token, saved)]
                resolved += parsed[token]
            else:
                resolved.append(term)
            selection.check_number(resolved)
        return resolved

    async def forget(self, account: str) -> None:
        """Remove all of an account."""
        await self._records.delete(account)


def _is_saved(term: object) -> bool:
    return isinstance(term, str) and term.strip().startswith(SAVED_MARK)
