"""A Mongoose OS device made of software, without its connection.

An agent keeps the connection: it calls `handle` and `on_notification` for incoming messages, sends the messages
of `hello` on every connect, and gives `run` functions to send and to disconnect.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from mdashcore._errors import Busy, DeviceOffline, InvalidInput, RpcError
from mdashcore.virtual_device.board import ERROR_LEVEL, Board, shadow_update
from mdashcore.virtual_device.boot import BootLoader, FirmwareBuild
from mdashcore.virtual_device.characters import PLAIN_DEVICE, Character
from mdashcore.virtual_device.config import Config, ConfigService, default_config, overlay
from mdashcore.virtual_device.fs import FS_SIZE, FileSystem
from mdashcore.virtual_device.gpio import Gpio
from mdashcore.virtual_device.ota import SLOT_SIZE, FirmwareUpdater
from mdashcore.virtual_device.outbox import OutgoingNotification
from mdashcore.virtual_device.rpc import SERVER_ERROR, Args, DeviceService, Method, RpcService
from mdashcore.virtual_device.state import DeviceState
from mdashcore.virtual_device.system import System

__all__ = ["VirtualDevice"]

STATS_INTERVAL: Final = 10.0  # seconds; as the device library of mDash reports
HEARTBEAT_INTERVAL: Final = 10.0  # seconds between heartbeat lines
FACTORY_BUILD: Final = FirmwareBuild()


class VirtualDevice:
    """One device, whose flash is a folder. Constructing it switches it on.

    The folder holds `boot.json` (the build that boots), `config.json` (differences from the defaults),
    `state.json` (the state that deltas have set), `slot0.bin` and `slot1.bin` (images), `fs/` (the files of `FS.*`).
    Dropping the object, or killing its process, is a power cut; a new object over the same folder boots.
    No two objects may share a folder.

    Durations are measured on Trio's clock. Files are small and local, and are read and written without
    a thread: no call waits, so each request is done before the next begins.
    """

    def __init__(
        self,
        device_id: str,
        folder: Path,
        *,
        build: FirmwareBuild = FACTORY_BUILD,
        character: Character = PLAIN_DEVICE,
        config: Mapping[str, Any] | None = None,
        now: Callable[[], float] = time.time,
        stats_interval: float = STATS_INTERVAL,
        log_interval: float = HEARTBEAT_INTERVAL,
        fs_size: int = FS_SIZE,
        slot_size: int = SLOT_SIZE,
    ) -> None:
        """Switch the device on. Call this inside a Trio run.

        Args:
            device_id: The default of the configuration's `device.id`. MAC and addresses are derived from it.
            folder: Created if it is missing.
            build: The factory's build, used until `boot.json` exists.
            character: Its differences from other devices; see `mdashcore.virtual_device.CHARACTERS`.
            config: Changes to the default configuration, for example `{"dash": {"server": …}}`.
            now: Returns Unix seconds, for log lines.
            stats_interval: Seconds between reports of `stats`, from the boot on.
            log_interval: Seconds between heartbeat log lines.
            fs_size: Bytes of the file system.
            slot_size: Bytes of the largest image.

        Raises:
            InvalidInput: a file in the folder is damaged, `config` does not fit, or a number is not above 0.
        """
        if min(stats_interval, log_interval, fs_size, slot_size) <= 0:
            raise InvalidInput("intervals and sizes must be above 0")
        self.character = character
        self._stats_interval = character.chatter or stats_interval
        self._log_interval = character.chatter or log_interval
        self._rebooted = False

        files = FileSystem(folder / "fs", fs_size)  # first, because it creates the folder
        self._config = Config(folder / "config.json", overlay(default_config(device_id), config or {}))
        self._boot = BootLoader(folder / "boot.json", build)
        self._state = DeviceState(folder / "state.json")
        self._board = Board(self._config, now=now, reset=self._reset)
        self._system = System(device_id, self._board, self._boot, files)
        self._gpio = Gpio(self._board)
        self._updater = FirmwareUpdater(
            folder, self._board, self._boot, self._report_ota, character, slot_size=slot_size
        )

        self._table: dict[str, Method] = {}
        services: tuple[DeviceService, ...] = (
            self._system,
            ConfigService(self._config, self._board.reset_after),
            files,
            self._gpio,
            self._updater,
            RpcService(self._table),
        )
        for service in services:
            self._table.update(service.methods())
        for name in character.lacks:
            self._table.pop(name, None)
        self._power_on()

    async def handle(self, method: str, params: Any) -> Any:
        """Answer one decoded request. Call it for one request after the other, in the order of their arrival.

        Raises:
            RpcError: an error of a Mongoose OS device; 404 for a method that is not in `RPC.List`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if method not in self._table:
            refusal = self.character.no_method
            raise RpcError(refusal.code, refusal.words.format(method=method[:100]))
        if (delay := self.character.delays.get(method)) is not None:
            await trio.sleep(delay)
        try:
            return self._table[method].handler(Args(params))
        except OSError as exc:  # of the folder: a worn-out flash
            raise RpcError(SERVER_ERROR, f"flash: {exc.strerror}") from exc

    async def on_notification(self, method: str, params: Any) -> None:
        """Process a notification: `Shadow.Delta` `{"state": {…}, …}` is applied and reported, others are ignored.

        A delta that cannot be applied is logged and not reported, so it remains a delta.
        """
        await trio.lowlevel.checkpoint()
        if method != "Shadow.Delta":
            return
        try:
            applied = self._state.apply(params.get("state") if isinstance(params, dict) else None)
        except (InvalidInput, OSError) as exc:
            self._board.log(f"Shadow.Delta refused: {exc}", ERROR_LEVEL)
            return
        if applied:
            self._board.report(applied)

    def hello(self) -> list[OutgoingNotification]:
        """Return the messages of every connect: the running firmware, and the whole state if there is one."""
        introduction = ("Dash.Heartbeat", self._system.info()) if self.character.heartbeat else self._ota_report()
        updates: list[OutgoingNotification] = [introduction]
        if self._state.tree:
            updates.append(shadow_update(self._state.tree))
        return updates

    async def run(self, notify: Callable[[str, Any], Awaitable[None]], reboot: Callable[[], Awaitable[None]]) -> None:
        """Run the device until cancelled, over any number of connections. Call this once for each object.

        A device that is offline still counts down to its rollback. While `notify` waits, at most 25 reports and 25 log
        lines are kept.

        Args:
            notify: sends a notification. Without a connection it drops the notification, or raises `DeviceOffline`; on
                a full connection it raises `Busy`. The notification is lost then, and the next `hello` makes up for it.
            reboot: drops the connection, promptly. The device has booted when it is called.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, notify)
            while True:
                await self._board.timers.fire()
                if self._rebooted:
                    self._rebooted = False
                    await reboot()

    async def _send(self, notify: Callable[[str, Any], Awaitable[None]]) -> None:
        while True:
            method, params = await self._board.outbox.get()
            try:
                await notify(method, params)
            except (DeviceOffline, Busy):
                pass

    def _power_on(self) -> None:
        self._board.power_on()
        self._config.power_on()
        self._boot.power_on()
        self._system.power_on()
        self._gpio.power_on()
        self._updater.power_on()
        self._board.timers.start("stats", self._stats_interval, self._report_stats)
        self._board.timers.start("heartbeat", self._log_interval, self._heartbeat)
        build = self._boot.running
        self._board.log(f"{build.app} {build.version} ({build.build_id}) booted from slot {self._boot.state.slot}")

    def _reset(self) -> None:
        self._power_on()
        self._rebooted = True

    def _ota(self) -> dict[str, Any]:
        """Return the twelve fields of `reported.ota`, without those that the character omits."""
        status = self._updater.status()
        number = {"status": status.pop("state")}
        said = {"device_id": self._config["device.id"], **self._system.identity(), **number, **status}
        return {name: value for name, value in said.items() if name not in self.character.omits}

    def _ota_report(self) -> OutgoingNotification:
        return shadow_update({"ota": self._ota()})

    def _report_ota(self) -> None:
        self._board.report({"ota": self._ota()})

    def _report_stats(self) -> None:
        if self._config["dash.send_stats"]:
            self._board.report({"stats": self._system.stats()})
        self._board.timers.start("stats", self._stats_interval, self._report_stats)

    def _heartbeat(self) -> None:
        stats = self._system.stats()
        self._board.log(f"uptime: {self._board.uptime():.2f}, RAM: {stats['ram_total']}, {stats['ram_free']} free")
        self._board.timers.start("heartbeat", self._log_interval, self._heartbeat)
