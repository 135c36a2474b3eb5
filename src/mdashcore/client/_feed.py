"""Notifications: the stream, the socket below it, and the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from mdashcore._server_url import notify_url
from mdashcore.client._http import Resource
from mdashcore.client._notifications import MAX_OUTAGE, Notifications
from mdashcore.client._socket import ClientSocket, open_socket
from mdashcore.documents import FoundNotificationsDocument, NotificationDocument

__all__ = ["FeedRequests"]


class FeedRequests(Resource):
    """What `Client` does with notifications."""

    def notifications(self, start: int | None = None, *, max_outage: float = MAX_OUTAGE) -> Notifications:
        """Open the stream of notifications::

            async with client.notifications() as notifications:
                async for notification in notifications:
                    print(notification["name"], notification["id"])

        After a lost connection it goes on where it was: no notification is missed or comes twice, as long as the server
        keeps those in between. The first connection is not retried. A log that was reset, as by a restore from a
        backup, is followed from its end on; the logger ``mdashcore.client`` warns of it.

        Args:
            start: the offset of the first notification: 0 for all that are kept, `Notifications.cursor` of an earlier
                stream to go on there. Without it only new ones come.
            max_outage: seconds without the server after which the stream ends with an error.
        """
        return Notifications(self.open_socket, self.end_of_log, start, max_outage)

    async def logs(
        self,
        *,
        start: int = 0,
        before: int | None = None,
        limit: int = 100,
        device: str | None = None,
        name: str | None = None,
    ) -> list[NotificationDocument]:
        """Return stored notifications, oldest first.

        Args:
            start: the smallest offset.
            before: only smaller offsets, and of those the newest.
            limit: how many at most, up to 1000.
            device: only of this device.
            name: only of this name; or of names that begin so, with ``*`` at the end.
        """
        wanted = {"start": start, "before": before, "limit": limit, "id": device, "name": name}
        query = {key: value for key, value in wanted.items() if value is not None}
        return cast(list[NotificationDocument], await self._http.fetch("POST", "logs", json=query))

    async def search_logs(
        self,
        text: str = "",
        *,
        device: str | None = None,
        names: Sequence[str] = (),
        start: float | None = None,
        end: float | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> FoundNotificationsDocument:
        """Return a part of a search in the stored notifications, which goes from the newest back.

        Args:
            text: a part of the name, of the id, or of the data, in any case.
            device: only of this device.
            names: only of these names; or of names that begin so, with ``*`` at the end.
            start, end: not before and not after these Unix seconds.
            before: ``next`` of the part before.
            limit: how many at most, up to 1000.
        """
        given = {
            "text": text or None,
            "id": device,
            "name": "|".join(names) or None,
            "from": None if start is None else repr(start),
            "to": None if end is None else repr(end),
            "before": None if before is None else str(before),
            "limit": str(limit),
        }
        query = {name: value for name, value in given.items() if value is not None}
        return cast(FoundNotificationsDocument, await self._http.fetch("GET", "logs", query=query))

    async def end_of_log(self) -> int:
        """Return the offset that the next notification will have: a start from which none is missed."""
        newest = await self.logs(before=2**63 - 1, limit=1)
        return newest[-1]["offset"] + 1 if newest else 0

    async def open_socket(self, start: int | None = None) -> ClientSocket:
        """Open the socket of notifications alone, for frames as the server sends them. The caller closes it.

        Args:
            start: the offset of the first notification; without it only new ones come.
        """
        http = self._http
        url = notify_url(http.server) + ("" if start is None else f"?start={start}")
        return await open_socket(url, http.authorization, server=http.server, ssl_context=http.ssl_context)
