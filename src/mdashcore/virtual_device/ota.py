"""The `OTA.*` service: receives an image, checks it, boots it, and rolls back an uncommitted build.

`OTA.Begin`, `OTA.Write`…, `OTA.End`, reboot, `OTA.Commit` or `OTA.Revert`. The states, with their numbers in
`OTA.Status`:

================  ===============================================  ===============
state             left by                                          to
================  ===============================================  ===============
0 idle, 2 error   Begin, if the running build is committed         1 progress
1 progress        no Write for `timeout` seconds                   0 idle
1 progress        End, and the image is not one for this device    2 error
1 progress        End, and it is                                   3 success
3 success         the reboot, half a second later                  0 idle
================  ===============================================  ===============

After that the table of the boot loader applies to the new build.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from mdashcore._errors import InvalidFirmware, RpcError
from mdashcore.firmware import FirmwareLimits, read_image
from mdashcore.virtual_device.board import ERROR_LEVEL, INFO_LEVEL, Board
from mdashcore.virtual_device.boot import BootLoader, FirmwareBuild
from mdashcore.virtual_device.characters import Character
from mdashcore.virtual_device.rpc import BAD_REQUEST, FAILED_CODE, Args, Method

__all__ = ["SLOT_SIZE", "FirmwareUpdater"]

SLOT_SIZE: Final = 4 * 2**20
"""Bytes of one slot: two fit the 8 MiB of a larger ESP32. An image of that size is checked in about 10 ms."""

WRONG_PLATFORM: Final = "Wrong platform"
SAME_VERSION: Final = "Version is the same as current"

UPDATE_REBOOT_DELAY: Final = 0.5  # seconds from the answer to OTA.End, as devices wait
REVERT_DELAY: Final = 0.1  # seconds from the answer to OTA.Revert
PROGRESS_INTERVAL: Final = 1.0  # seconds between reports of progress: as quick as people read
DEFAULT_TIMEOUT: Final = 600  # seconds, if the caller and the configuration say 0
MAX_COMMIT_TIMEOUT: Final = 2**31 - 1  # seconds; Mongoose OS reads a C int


class TransferState(IntEnum):
    """The states of the transfer, as `OTA.Status` counts them. The table above shows their order."""

    IDLE = 0
    PROGRESS = 1
    ERROR = 2
    SUCCESS = 3


@attrs.define
class Transfer:
    """An image on its way into the device. The file is not kept open: a power cut leaves nothing to close."""

    slot: Path
    size: int
    """Bytes announced; 0 if the caller did not say."""
    timeout: int
    commit_timeout: int
    written: int = 0
    reported: float = 0.0
    """When progress was last reported, on Trio's clock."""

    @property
    def percent(self) -> int:
        return 100 * self.written // self.size if self.size else 0


class FirmwareUpdater:
    """The transfer in RAM, and the commit timer. It calls `report` after every change of `status`."""

    def __init__(
        self,
        folder: Path,
        board: Board,
        boot: BootLoader,
        report: Callable[[], None],
        character: Character,
        *,
        slot_size: int,
    ) -> None:
        self._folder = folder
        self._board = board
        self._boot = boot
        self._report = report
        self._character = character
        self._slot_size = slot_size

    def methods(self) -> dict[str, Method]:
        return {
            "OTA.Begin": Method(self._begin, "{size: %d, timeout: %d, commit_timeout: %d}"),
            "OTA.Write": Method(self._write, "{offset: %d, data: %V}"),
            "OTA.End": Method(self._end),
            "OTA.Status": Method(lambda args: self.status()),
            "OTA.Commit": Method(self._commit),
            "OTA.Revert": Method(self._revert),
        }

    def power_on(self) -> None:
        """Forget the transfer, and start the commit timer of an uncommitted build. Called after the boot loader's."""
        self._transfer: Transfer | None = None
        self._state, self._message = TransferState.IDLE, "idle"
        boot = self._boot.state
        if not boot.committed:
            self._board.timers.start("commit", boot.commit_timeout, self._commit_time_out)

    def status(self) -> dict[str, Any]:
        """Return the answer to `OTA.Status`."""
        boot, transfer = self._boot.state, self._transfer
        return {
            "state": int(self._state),
            "message": self._message,
            "is_committed": boot.committed,
            "progress_percent": transfer.percent if transfer else 0,
            "commit_timeout": boot.commit_timeout,
            "partition": boot.slot,
        }

    def _begin(self, args: Args) -> None:
        if self._state in (TransferState.PROGRESS, TransferState.SUCCESS):
            forgets = self._character.forgets_transfers
            raise RpcError(FAILED_CODE, "Update already in progress" if forgets else "OTA already in progress")
        if not self._boot.state.committed:
            raise RpcError(FAILED_CODE, "Previous update has not been committed yet")
        settings = self._board.config["update"]
        transfer = Transfer(
            slot=self._folder / f"slot{1 - self._boot.state.slot}.bin",
            size=args.integer("size", 0),
            timeout=_seconds(args, "timeout", settings["timeout"]) or DEFAULT_TIMEOUT,
            commit_timeout=_seconds(args, "commit_timeout", settings["commit_timeout"]),
        )
        if not self._character.has_trial:
            transfer.commit_timeout = 0
        if not 0 <= transfer.size <= self._slot_size:
            raise RpcError(FAILED_CODE, f"Image does not fit the slot of {self._slot_size} bytes")
        transfer.slot.write_bytes(b"")
        self._transfer = transfer
        self._await_progress(transfer)
        self._board.log(f"OTA: starting, {transfer.size} bytes, timeout {transfer.timeout} s")
        self._enter(TransferState.PROGRESS, "progress")

    def _write(self, args: Args) -> None:
        """Write a chunk. An earlier chunk may come again, because its answer was lost and its caller repeats it."""
        transfer = self._transfer
        if transfer is None or self._state is not TransferState.PROGRESS:
            raise RpcError(FAILED_CODE, "No update in progress")
        data, offset = args.data("data"), args.integer("offset", transfer.written)
        if not 0 <= offset <= transfer.written:
            raise RpcError(BAD_REQUEST, f"Invalid offset: {transfer.written} bytes are written")
        if offset + len(data) > (transfer.size or self._slot_size):
            raise RpcError(FAILED_CODE, "More data than announced, or than the slot holds")
        with transfer.slot.open("r+b") as file:
            file.seek(offset)
            file.write(data)
        transfer.written = max(transfer.written, offset + len(data))
        self._await_progress(transfer)
        if self._character.tells_percent:
            self._board.notify("State.Set", {"ota": {"percent": transfer.percent}})
        if trio.current_time() - transfer.reported >= PROGRESS_INTERVAL:
            transfer.reported = trio.current_time()
            self._report()

    def _end(self, args: Args) -> None:
        transfer = self._transfer
        is_whole = transfer is not None and transfer.written >= max(transfer.size, 1)
        if transfer is None or self._state is not TransferState.PROGRESS:
            raise RpcError(FAILED_CODE, "Wrong state for finalize")
        if not is_whole:
            if self._character.forgets_transfers:
                raise RpcError(FAILED_CODE, "Wrong state for finalize")
            self._enter(TransferState.SUCCESS, "rebooting")  # the boot loader will find no image in the slot
            self._board.reset_after(UPDATE_REBOOT_DELAY, "update")
            return
        try:
            build = self._checked(transfer.slot)
        except InvalidFirmware as exc:
            message = exc.device_words
            self._board.log(f"OTA: {exc}", ERROR_LEVEL)
            self._stop(TransferState.ERROR, message)
            raise RpcError(FAILED_CODE, message) from None
        self._boot.save(self._boot.state.install(build, transfer.commit_timeout))
        self._board.timers.stop("transfer")
        self._enter(TransferState.SUCCESS, "Update applied, finalizing")
        self._board.reset_after(UPDATE_REBOOT_DELAY, f"update to {build.version} ({build.build_id})")

    def _checked(self, slot: Path) -> FirmwareBuild:
        """Return the build in an image, if this device may run it. Of a bare image only the digest is known."""
        with slot.open("rb") as file:
            image = read_image(file, name=slot.name, limits=FirmwareLimits(size=self._slot_size))
        running, manifest = self._boot.running, image.manifest
        if manifest is None:
            build = FirmwareBuild(running.app, "unknown", image.sha256, running.platform)
        else:
            build = FirmwareBuild(manifest.name, manifest.version, manifest.build_id, manifest.platform)
        if build.platform.lower() != running.platform.lower():
            words = f"{WRONG_PLATFORM}: want {running.platform}, got {build.platform}"
            raise InvalidFirmware(words, device_words=WRONG_PLATFORM)
        if (build.version, build.build_id) == (running.version, running.build_id):
            raise InvalidFirmware(SAME_VERSION, device_words=SAME_VERSION)
        return build

    def _commit(self, args: Args) -> None:
        if self._boot.state.committed:
            raise RpcError(FAILED_CODE, "Already committed")
        self._boot.save(self._boot.state.commit())
        self._board.timers.stop("commit")
        self._board.log("OTA: committed")
        self._report()

    def _revert(self, args: Args) -> None:
        if self._boot.state.committed:
            raise RpcError(FAILED_CODE, "Already committed")
        self._roll_back(REVERT_DELAY, "update reverted")

    def _commit_time_out(self) -> None:
        self._roll_back(0, "commit timeout expired, update reverted")

    def _roll_back(self, delay: float, why: str) -> None:
        self._boot.save(self._boot.state.revert())
        self._board.timers.stop("commit")
        self._board.reset_after(delay, why)

    def _await_progress(self, transfer: Transfer) -> None:
        if self._character.forgets_transfers:
            self._board.timers.start("transfer", transfer.timeout, self._transfer_time_out)

    def _transfer_time_out(self) -> None:
        self._board.log("OTA: update timed out", ERROR_LEVEL)
        self._stop(TransferState.IDLE, "idle")

    def _stop(self, state: TransferState, message: str) -> None:
        self._transfer = None
        self._board.timers.stop("transfer")
        self._enter(state, message)

    def _enter(self, state: TransferState, message: str) -> None:
        self._state, self._message = state, message
        self._board.log(f"OTA: {message}", ERROR_LEVEL if state is TransferState.ERROR else INFO_LEVEL)
        if self._transfer is not None:
            self._transfer.reported = trio.current_time()
        self._report()


def _seconds(args: Args, name: str, default: int) -> int:
    seconds = args.integer(name, default)
    if not 0 <= seconds <= MAX_COMMIT_TIMEOUT:
        raise RpcError(BAD_REQUEST, f"{name} is out of range")
    return seconds
