"""The client."""

from __future__ import annotations

import base64
import math
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

from mdashcore._errors import InvalidInput
from mdashcore._server_url import notify_url, parse_server
from mdashcore.client._firmware import FirmwareImages
from mdashcore.client._http import Http
from mdashcore.client._notifications import MAX_OUTAGE, Notifications
from mdashcore.client._pages import DevicesPage, all_devices, read_page
from mdashcore.client._socket import ClientSocket, open_socket
from mdashcore.client._updates import Progress, UpdateFollower, start_rollout
from mdashcore.documents import (
    MAX_DEVICES_PAGE,
    MAX_MEMBERS_PAGE,
    MAX_RESULTS_PAGE,
    AcceptedShadow,
    CreatedKey,
    DeviceDocument,
    DevicePart,
    FleetDocument,
    JobDocument,
    JobPreviewDocument,
    JobResultDocument,
    JobResultsPage,
    KeyDocument,
    LimitsDocument,
    MeDocument,
    MemberDocument,
    MembersPage,
    NewRollout,
    NotificationDocument,
    RegisteredDevice,
    RolloutDocument,
    ShadowDocument,
    TagPatch,
    TagsChanged,
    UpdateDocument,
    UpdateWithHistory,
)
from mdashcore.job import JobOutcome
from mdashcore.ota import UPDATE_ENDS, UpdateState
from mdashcore.rollout import Outcome

__all__ = ["Client"]

REQUEST_TIMEOUT: Final = 30.0  # seconds for an answer: the server's own time-outs are shorter

BACKUP_TIMEOUT: Final = 60.0  # seconds for the next piece: the store reads it meanwhile

CALL_MARGIN: Final = 10.0  # seconds beyond a call's own time-out: the server says that the device did not answer

CALL_TIMEOUT: Final = 10.0  # seconds, as on the server

_KEY: Final = re.compile(r"[!-~]+")  # anything else would be more than one header
_PASSWORD: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*")  # as RFC 7617 has it, and what UTF-8 can hold
_USER: Final = re.compile(r"[^:\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


class Client:
    """A client of one server, with the credentials of one account. Runs on asyncio and on Trio.

    ::

        async with Client("https://mdash.example", key="mdk_…") as client:
            for device in await client.devices("online"):
                print(device["id"])

    Every method raises `MdashError`: the class that the server has raised (`NotFound`, `DeviceOffline`, `RpcError`, …),
    `ServerUnreachable` if there was no answer, `UnexpectedAnswer` if another program has answered.

    Args:
        url: the server's, with ``http``, ``https``, ``ws`` or ``wss``; that of its API or for devices is accepted too.
        key: an API key.
        user: name and password, in place of a key. Only these may manage users.
        ssl_context: the certificates to trust; by default the system's.
        timeout: seconds to wait for an answer.

    Raises:
        InvalidInput: the URL is none of a server, not exactly one credential is given, or it has characters that none
            has, such as a line end.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        user: tuple[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> None:
        self._server = parse_server(url)
        self._http = Http(self._server, _authorization(key, user), ssl_context, timeout)
        self.firmware: FirmwareImages = FirmwareImages(self._http)
        """The firmware library."""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._http.close()

    async def request(
        self,
        method: str,
        *path: str,
        json: object = None,
        query: Mapping[str, str | Sequence[str]] | None = None,
        files: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Send any request of the REST API, and return the body of its answer.

        Args:
            path: its segments, below ``/api/v2``.
            json: the body: a value, or JSON as `bytes`; `None` sends no body.
            query: the parameters of the URL.
            files: the fields of a form, in place of `json`: each a file name with an open binary file.
            timeout: seconds to wait for the answer; infinite for no limit.
        """
        answer = await self._http.request(method, *path, json=json, query=query, files=files, timeout=timeout)
        return answer.content

    # Devices

    async def devices(self, *terms: str) -> list[DeviceDocument]:
        """Return the account's devices by id, or those for which every term of a filter holds.

        They are read a page at a time. `iterate_devices` does not hold all of them.
        """
        return [cast(DeviceDocument, device) async for device in all_devices(self._http, terms)]

    def iterate_devices(
        self, *terms: str, sort: str | None = None, limit: int | None = None, fields: Sequence[str] | None = None
    ) -> AsyncGenerator[DevicePart, None]:
        """Yield the account's devices, or those for which every term of a filter holds. Reads a page at a time.

        A device that changes its place in the list meanwhile may be given twice, or not at all.

        Args:
            sort: as for `devices_page`.
            limit: the maximum number of devices in all.
            fields: as for `devices_page`.
        """
        return all_devices(self._http, terms, sort=sort, limit=limit, fields=fields)

    async def devices_page(
        self,
        *terms: str,
        limit: int = MAX_DEVICES_PAGE,
        after: str | None = None,
        sort: str | None = None,
        fields: Sequence[str] | None = None,
        count: bool = False,
    ) -> DevicesPage:
        """Return a part of the list of devices.

        Args:
            terms: every term has to hold.
            limit: the maximum number of devices, from 1 to 1000.
            after: the cursor of an earlier page (`DevicesPage.next`), with the same `sort`.
            sort: ``id``, ``name``, ``online``, ``last_seen`` or ``fw_version``, with ``-`` before it for the reverse.
            fields: the members that the devices have: those of a device, and ``app``, ``arch``, ``fw_id``,
                ``fw_version`` and ``is_committed``. By default those of a device.
            count: whether all devices that match are counted (`DevicesPage.total`).
        """
        return await read_page(self._http, terms, limit=limit, after=after, sort=sort, fields=fields, count=count)

    async def fleet(self) -> FleetDocument:
        """Return the figures of the account's devices: presence, builds, updates, rollouts, and what needs a look."""
        return cast(FleetDocument, await self._http.fetch("GET", "fleet"))

    async def device(self, id: str) -> DeviceDocument:
        """Return a device. Raises `NotFound`."""
        return cast(DeviceDocument, await self._http.fetch("GET", "devices", id))

    async def create_device(
        self, id: str | None = None, *, name: str | None = None, tags: TagPatch = None
    ) -> RegisteredDevice:
        """Register a device. The answer has its token, which is shown this once. Raises `Conflict` if the id is taken.

        Args:
            id: without it, the server makes one.
            name: text for people.
            tags: names with text or `True`.
        """
        given = {"id": id, "name": name, "tags": tags}
        wanted = {key: value for key, value in given.items() if value is not None}
        return cast(RegisteredDevice, await self._http.fetch("POST", "devices", json=wanted))

    async def adopt_device(self, user: str, device: Mapping[str, Any]) -> bool:
        """Register a device of any account with a token that another service has made. Only for admins.

        Args:
            device: its `id`, its `token` or `token_sha256`, and optionally `name` and `tags`.

        Returns:
            Whether it is new; `False` if the account has it with this token already.

        Raises:
            InvalidInput: the token is too weak.
            Conflict: the id or the token is taken.
        """
        answer = await self._http.request("POST", "users", user, "devices", json=dict(device))
        return answer.status_code == 201

    async def rename_device(self, id: str, name: str) -> DeviceDocument:
        """Give a device another name. Raises `NotFound`."""
        return cast(DeviceDocument, await self._http.fetch("PUT", "devices", id, json={"name": name}))

    async def change_tags(self, id: str, patch: TagPatch) -> DeviceDocument:
        """Merge a patch into a device's tags: a value of `None` removes one, `None` for the patch all."""
        return cast(DeviceDocument, await self._http.fetch("PUT", "devices", id, json={"tags": patch}))

    async def change_tags_of_many(
        self, patch: TagPatch, *terms: str, devices: Sequence[str] | None = None, preview: bool = False
    ) -> TagsChanged:
        """Merge a patch into the tags of the devices for which every term holds, all devices without terms.

        Args:
            devices: ids, of which the terms pick; `None` for devices with any id.
            preview: whether nothing is changed, only counted.
        """
        asked = {"tags": patch, "filter": list(terms), "preview": preview}
        asked |= {} if devices is None else {"devices": list(devices)}
        return cast(TagsChanged, await self._http.fetch("POST", "tags", json=asked, timeout=math.inf))

    async def limit_deltas(self, id: str, limit: int | None) -> DeviceDocument:
        """Limit the frames with a delta that a device is sent: bytes, 0 for none, `None` for its platform's limit."""
        return cast(DeviceDocument, await self._http.fetch("PUT", "devices", id, json={"delta_limit": limit}))

    async def renew_token(self, id: str) -> str:
        """Give a device a new token, and return it. The old one and its connection end immediately."""
        return str((await self._http.fetch("POST", "devices", id, "token"))["token"])

    async def remove_device(self, id: str) -> None:
        """Remove a device. Its token and its connection end immediately. Raises `NotFound`."""
        await self._http.request("DELETE", "devices", id)

    # Saved filters

    async def saved_filters(self) -> dict[str, str]:
        """Return the saved filters by name, each on one line. ``@NAME`` stands for one in a list of terms."""
        return {each["name"]: each["filter"] for each in await self._http.fetch("GET", "filters")}

    async def save_filter(self, name: str, filter: str) -> None:
        """Save a filter, which is terms on one line, under a name, in place of an earlier one."""
        await self._http.fetch("PUT", "filters", name, json={"filter": filter})

    async def remove_filter(self, name: str) -> None:
        """Remove a saved filter. Raises `NotFound`."""
        await self._http.request("DELETE", "filters", name)

    # Calls and shadows

    async def call(self, device: str, method: str, params: Any = None, *, timeout: float | None = None) -> Any:
        """Call a method of a device, and return its result.

        Args:
            params: any JSON value; `None` sends none.
            timeout: seconds that the device has for the answer, at most 120; 10 if not given.

        Raises:
            RpcError: the device answers with an error.
            DeviceOffline: it is not connected.
            CallTimeout: it does not answer in time.
            InvalidAnswer: its answer cannot be read.
        """
        query = None if timeout is None else {"timeout": f"{timeout:.3f}"}
        limit = (CALL_TIMEOUT if timeout is None else timeout) + CALL_MARGIN
        return await self._http.fetch(
            "POST", "devices", device, "rpc", method, json=params, query=query, timeout=max(limit, self._http.timeout)
        )

    async def shadow(self, device: str) -> ShadowDocument:
        """Return a device's shadow. Raises `NotFound`."""
        return cast(ShadowDocument, await self._http.fetch("GET", "devices", device, "shadow"))

    async def update_shadow(
        self,
        device: str,
        *,
        desired: Mapping[str, Any] | None = None,
        reported: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> AcceptedShadow:
        """Merge values into a device's shadow. A value of `None` removes its key. Returns what was accepted.

        Args:
            version: the current version, as a lock.

        Raises:
            Conflict: the shadow has another version.
            TooLarge: the shadow would grow too large.
        """
        sections = {"desired": desired, "reported": reported}
        state = {name: section for name, section in sections.items() if section is not None}
        document = {"state": state, **({} if version is None else {"version": version})}
        return cast(AcceptedShadow, await self._http.fetch("POST", "devices", device, "shadow", json=document))

    # Firmware

    async def update(
        self,
        device: str,
        file: str | Path | None = None,
        *,
        firmware: str | None = None,
        auto_commit: bool = False,
        queue: bool = False,
        force: bool = False,
        bare: bool = False,
        keep: bool = False,
        options: Mapping[str, int] | None = None,
        progress: Progress | None = None,
        until: Collection[UpdateState] = UPDATE_ENDS,
    ) -> UpdateDocument:
        """Update a device's firmware, and wait for the end. Returns the update in its last state, good or bad.

        The wait survives a restart of the server. To cancel it leaves the update as it is: see `cancel_update`.

        Args:
            file: a Mongoose OS firmware zip, or a bare image.
            firmware: the id of an image of the library, in place of a file.
            auto_commit: whether the server commits after a health check. Otherwise call ``OTA.Commit`` before the
                device goes back to the old firmware; give `until` to learn when.
            queue: whether a device that is offline gets the image when it comes.
            force: send it whatever platform, application and build the device reports.
            bare: the image is a bare one, whatever it looks like.
            keep: keep the file in the firmware library.
            options: more parameters of the endpoint: ``commit_timeout``, ``chunk_size``, …
            progress: called with the update whenever it has changed.
            until: states in which to return before the end, such as ``{UpdateState.UNCOMMITTED}``.

        Raises:
            InvalidInput: the file is no image, an option is out of its bounds, or not exactly one image is given.
            NotFound: there is no such device, or no such image in the library.
            DeviceOffline: the device is not connected, or has gone before the update began, and `queue` was not asked
                for.
            Conflict: the image is likely meant for another device, or an update is going on.
        """
        query = {name: str(value) for name, value in (options or {}).items()}
        _check_one_image(file, firmware)
        query |= {name: "1" for name, wanted in {"force": force, "bare": bare, "keep": keep}.items() if wanted}
        query |= {} if firmware is None else {"firmware": firmware}
        query |= {"commit": "auto"} if auto_commit else {}
        async with self.notifications() as news:
            follower = UpdateFollower(self._http, news, device, progress)
            await follower.begin(None if file is None else Path(file), query, queue=queue, until=until)
            return await follower.follow(until)

    async def update_status(self, device: str) -> UpdateWithHistory:
        """Return a device's newest update, and the earlier ones. Raises `NotFound` if it was never updated."""
        return cast(UpdateWithHistory, await self._http.fetch("GET", "devices", device, "ota"))

    async def cancel_update(self, device: str) -> UpdateDocument:
        """Cancel a device's update. Raises `Conflict` if the device has the whole image already."""
        return cast(UpdateDocument, await self._http.fetch("DELETE", "devices", device, "ota"))

    # Rollouts

    async def create_rollout(
        self,
        file: str | Path | None,
        plan: NewRollout,
        *,
        firmware: str | None = None,
        bare: bool = False,
        keep: bool = False,
    ) -> RolloutDocument:
        """Begin a rollout of an image to many devices.

        Args:
            file: the image; `None` with `firmware`.
            plan: the devices, as `filter` or `devices`, and how it goes on.
            firmware: the id of an image of the library.
            bare: the image is a bare one, whatever it looks like.
            keep: keep the file in the firmware library.
        """
        _check_one_image(file, firmware)
        if file is not None:
            return await start_rollout(self._http, Path(file), plan, bare=bare, keep=keep)
        query = {name: "1" for name, wanted in {"bare": bare, "keep": keep}.items() if wanted}
        body = {**plan, "firmware": firmware}
        return cast(RolloutDocument, await self._http.fetch("POST", "rollouts", json=body, query=query))

    async def rollouts(self) -> list[RolloutDocument]:
        """Return the account's rollouts, the newest first. One that is damaged has only `id` and `damaged`."""
        return cast(list[RolloutDocument], await self._http.fetch("GET", "rollouts"))

    async def rollout(self, id: str) -> RolloutDocument:
        """Return a rollout. Raises `NotFound`."""
        return cast(RolloutDocument, await self._http.fetch("GET", "rollouts", id))

    async def change_rollout(self, id: str, action: str) -> RolloutDocument:
        """Approve, pause, resume, retry or abort a rollout: `action` is one of these words. Raises `Conflict`."""
        return cast(RolloutDocument, await self._http.fetch("POST", "rollouts", id, action))

    async def remove_rollout(self, id: str) -> None:
        """Remove a rollout that has ended. Raises `Conflict` if it has not."""
        await self._http.request("DELETE", "rollouts", id)

    async def members(self, id: str, outcome: Outcome | None = None) -> AsyncIterator[MemberDocument]:
        """Yield the devices of a rollout in order, or those with an outcome. They are read in pages."""
        start: int | None = 0
        while start is not None:
            query = {"start": str(start), "limit": str(MAX_MEMBERS_PAGE)}
            query |= {} if outcome is None else {"outcome": outcome.value}
            page: MembersPage = await self._http.fetch("GET", "rollouts", id, "members", query=query)
            for member in page["members"]:
                yield member
            start = page["next"]

    # Jobs

    async def create_job(
        self,
        desired: Mapping[str, Any],
        *terms: str,
        devices: Sequence[str] | None = None,
        name: str = "",
    ) -> JobDocument:
        """Set desired values of the devices for which every term holds, all devices without terms.

        The job goes on by itself: see `job`, or the notifications ``job.…``.

        Args:
            desired: the values of each device. A value of `None` removes its key.
            devices: ids, of which the terms pick; `None` for devices with any id.
            name: text for people.

        Raises:
            InvalidInput: the values fit into no shadow, or no device is selected.
            NotFound: a device of `devices` does not exist.
            LimitReached: too many jobs of the account have not ended.
        """
        asked = {**_job(desired, terms, devices), "name": name}
        return cast(JobDocument, await self._http.fetch("POST", "jobs", json=asked, timeout=math.inf))

    async def preview_job(
        self, desired: Mapping[str, Any], *terms: str, devices: Sequence[str] | None = None
    ) -> JobPreviewDocument:
        """Return what `create_job` would change, from what to what. Changes nothing."""
        asked = {**_job(desired, terms, devices), "preview": True}
        return cast(JobPreviewDocument, await self._http.fetch("POST", "jobs", json=asked, timeout=math.inf))

    async def jobs(self) -> list[JobDocument]:
        """Return the account's jobs, the newest first."""
        return cast(list[JobDocument], await self._http.fetch("GET", "jobs"))

    async def job(self, id: str) -> JobDocument:
        """Return a job. Raises `NotFound`."""
        return cast(JobDocument, await self._http.fetch("GET", "jobs", id))

    async def cancel_job(self, id: str) -> JobDocument:
        """Let a job change no more devices. Raises `Conflict` if it has ended."""
        return cast(JobDocument, await self._http.fetch("POST", "jobs", id, "cancel"))

    async def remove_job(self, id: str) -> None:
        """Remove a job that has ended, with its results. Raises `Conflict` if it has not."""
        await self._http.request("DELETE", "jobs", id)

    async def job_results(self, id: str, outcome: JobOutcome | None = None) -> AsyncIterator[JobResultDocument]:
        """Yield the result of a job for each device by id, or those with an outcome. They are read in pages."""
        start: int | None = 0
        while start is not None:
            query = {"start": str(start), "limit": str(MAX_RESULTS_PAGE)}
            query |= {} if outcome is None else {"outcome": outcome.value}
            page: JobResultsPage = await self._http.fetch("GET", "jobs", id, "devices", query=query)
            for result in page["results"]:
                yield result
            start = page["next"]

    # Notifications

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

    async def end_of_log(self) -> int:
        """Return the offset that the next notification will have: a start from which none is missed."""
        newest = await self.logs(before=2**63 - 1, limit=1)
        return newest[-1]["offset"] + 1 if newest else 0

    async def open_socket(self, start: int | None = None) -> ClientSocket:
        """Open the socket of notifications alone, for frames as the server sends them. The caller closes it.

        Args:
            start: the offset of the first notification; without it only new ones come.
        """
        url = notify_url(self._server) + ("" if start is None else f"?start={start}")
        return await open_socket(url, self._http.authorization, server=self._server, ssl_context=self._http.ssl_context)

    # The account

    def backup(self) -> AsyncGenerator[bytes, None]:
        """Yield everything that the service keeps, as JSON lines in pieces. For admins, with name and password.

        It is whole if the last line has ``"end": true``.
        """
        return self._http.stream("backup", timeout=BACKUP_TIMEOUT)

    async def me(self) -> MeDocument:
        """Return the account's name, and whether these credentials may manage users."""
        return cast(MeDocument, await self._http.fetch("GET", "me"))

    async def limits(self) -> LimitsDocument:
        """Return the limits of the account, and its use of them."""
        return cast(LimitsDocument, await self._http.fetch("GET", "limits"))

    async def keys(self) -> list[KeyDocument]:
        """Return the account's keys, without their secrets."""
        return cast(list[KeyDocument], await self._http.fetch("GET", "keys"))

    async def create_key(self, name: str = "") -> CreatedKey:
        """Create a key. Its secret is shown this once."""
        return cast(CreatedKey, await self._http.fetch("POST", "keys", json={"name": name}))

    async def remove_key(self, id: str) -> None:
        """Remove a key. Its sockets are closed. Raises `NotFound`."""
        await self._http.request("DELETE", "keys", id)


def _job(desired: Mapping[str, Any], terms: Sequence[str], devices: Sequence[str] | None) -> dict[str, Any]:
    """Return the request for a job."""
    asked: dict[str, Any] = {"desired": dict(desired), "filter": list(terms)}
    return asked if devices is None else asked | {"devices": list(devices)}


def _authorization(key: str | None, user: tuple[str, str] | None) -> str:
    """Return the header's value. The errors are without the credentials, because errors get into logs."""
    if (key is None) is (user is None):
        raise InvalidInput("a client has either a key, or a user with a password")
    if user is not None:
        name, password = user
        if not _USER.fullmatch(name) or not _PASSWORD.fullmatch(password):
            raise InvalidInput("a user's name has no colon, and neither it nor the password has a line end or the like")
        return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"
    if not _KEY.fullmatch(key or ""):
        raise InvalidInput("a key has printable ASCII characters only: no space, and no line end")
    return f"Bearer {key}"


def _check_one_image(file: object, firmware: str | None) -> None:
    if (file is None) is (firmware is None):
        raise InvalidInput("an image is either a file or one of the firmware library")
