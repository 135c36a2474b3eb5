"""An update seen from the command line: it sends the image, and watches the update until its end.

After the server has the update, the watch survives lost connections, for example a restart of the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path

import trio

from mdashcore._errors import MdashError, RpcError
from mdashcore.cli.client import Remote
from mdashcore.cli.exits import CliError
from mdashcore.cli.ota_display import UpdateDisplay, continue_hint
from mdashcore.client import Client
from mdashcore.client._notifications import BACKOFF, may_pass
from mdashcore.client._update_follower import UpdateFollower
from mdashcore.documents import UpdateDocument
from mdashcore.ota import UPDATE_ENDS, UpdateState, lacks_method

__all__ = ["UpdateWatch"]


class UpdateWatch:
    """Sends an image, follows its update, and commits it if that was asked for.

    Args:
        path: the image; `None` if the query names one of the library.
        query: the options of the update, as `mdashcore.server.uploads.update_query` reads them.
        display: shows the progress.
        commit: call `OTA.Commit` as soon as the device runs the image.
        wait: wait for the end. Otherwise UNCOMMITTED is enough.
        queue: return an update that waits for an offline device.
    """

    def __init__(
        self,
        remote: Remote,
        device: str,
        path: Path | None,
        query: Mapping[str, str],
        display: UpdateDisplay,
        *,
        commit: bool,
        wait: bool,
        queue: bool,
    ) -> None:
        self._remote = remote
        self._device = device
        self._path = path
        self._query = query
        self._display = display
        self._commit = commit
        self._wait = wait
        self._queue = queue

    async def run(self) -> UpdateDocument:
        """Send the image, and wait until the update ends; with `queue` also until it waits for an offline device.

        Returns:
            the update as the server describes it.

        Raises:
            CliError: the server or the device refuses the image, or the server is away for too long. In the second case
                the update goes on.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            with self._remote.reaching():
                update = await self._send_and_follow()
            nursery.cancel_scope.cancel()
        return update

    async def _send_and_follow(self) -> UpdateDocument:
        say = self._display.print
        async with self._remote.client() as client, self._remote.notifications(client, say=say) as news:
            follower = UpdateFollower(client._http, news, self._device, self._display.show)
            await follower.begin(self._path, self._query, queue=self._queue, until=())
            try:
                waits = self._queue and follower.update["state"] == UpdateState.QUEUED
                if waits and not (await news.read(lambda: client.device(self._device)))["online"]:
                    return follower.update
                await follower.follow({UpdateState.UNCOMMITTED} if self._commit or not self._wait else UPDATE_ENDS)
                if self._commit:
                    await self._call_commit(client, follower)
                    await follower.follow()
            except MdashError as exc:
                if not may_pass(exc):
                    raise
                error = self._remote.error(exc)
                raise CliError(f"{error}. {continue_hint(self._device)}", error.code) from exc
        return follower.update

    async def _call_commit(self, client: Client, follower: UpdateFollower) -> None:
        """Commit an update that is on trial. An error that may pass is followed by another call.

        After an earlier call a refusal of the device means nothing, because that call may have committed it.
        """
        for tries in count(1):
            if follower.update["state"] != UpdateState.UNCOMMITTED:
                return
            try:
                await client.call(self._device, "OTA.Commit")
            except RpcError as exc:
                if tries > 1 or lacks_method(exc.code, exc.message):  # without it there is no trial, and the server
                    return  # knows
                raise
            except MdashError as exc:
                if not may_pass(exc):
                    raise
                if tries == 1:
                    self._display.print(f"OTA.Commit is called again: {self._remote.error(exc)}")
                await trio.sleep(BACKOFF.delay(tries))
                await follower.read_again()
            else:
                return

    async def _tick(self) -> None:
        while True:
            await trio.sleep(1)
            self._display.tick()
