"""Saved filters."""

from __future__ import annotations

from mdashcore.client._http import Resource

__all__ = ["FilterRequests"]


class FilterRequests(Resource):
    """What `Client` does with saved filters."""

    async def saved_filters(self) -> dict[str, str]:
        """Return the saved filters by name, each on one line. ``@NAME`` stands for one in a list of terms."""
        return {each["name"]: each["filter"] for each in await self._http.fetch("GET", "filters")}

    async def save_filter(self, name: str, filter: str) -> None:
        """Save a filter, which is terms on one line, under a name, in place of an earlier one."""
        await self._http.fetch("PUT", "filters", name, json={"filter": filter})

    async def remove_filter(self, name: str) -> None:
        """Remove a saved filter. Raises `NotFound`."""
        await self._http.request("DELETE", "filters", name)
