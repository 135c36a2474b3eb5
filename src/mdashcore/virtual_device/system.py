"""The `Sys.*` and `Wifi.*` services: the device's description of itself."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from mdashcore._errors import RpcError
from mdashcore.virtual_device.board import Board
from mdashcore.virtual_device.boot import BootLoader
from mdashcore.virtual_device.fs import FileSystem
from mdashcore.virtual_device.rpc import BAD_REQUEST, Args, Method

__all__ = ["System"]

RAM_SIZE: Final = 281_872  # bytes of heap, as an ESP32 with Mongoose OS 2.19 reports it
RAM_BASE: Final = 221_412  # bytes free on an idle device
RAM_WAVE: Final = 8_192  # bytes by which the free heap changes as buffers come and go
RAM_PERIOD: Final = 300.0  # seconds of one such wave
RAM_PER_NOTIFICATION: Final = 512  # bytes that a queued notification takes

MAX_REBOOT_DELAY: Final = 2**31 - 1  # ms; Mongoose OS reads a C int
DEFAULT_REBOOT_DELAY: Final = 100  # ms

AUTH_OPEN: Final = 0  # Mongoose OS's numbers of Wi-Fi authentication modes
AUTH_WPA2: Final = 3


class System:
    """Identity, memory, network, reboot. Values that real hardware would measure are computed, the same every time."""

    def __init__(self, device_id: str, board: Board, boot: BootLoader, files: FileSystem) -> None:
        self._board = board
        self._boot = boot
        self._files = files
        self._serial = hashlib.sha256(device_id.encode()).digest()
        self.mac: str = "02" + self._serial[:5].hex().upper()
        """Derived from the device id; the 02 means "locally administered" (IEEE 802)."""

    def power_on(self) -> None:
        self._ram_lowest = RAM_SIZE

    def methods(self) -> dict[str, Method]:
        return {
            "Sys.GetInfo": Method(self._get_info, "{utc_time: %d}"),
            "Sys.Reboot": Method(self._reboot, "{delay_ms: %d}"),
            "Wifi.Scan": Method(self._scan),
        }

    def identity(self) -> dict[str, str]:
        """Return the members that `Sys.GetInfo` and `reported.ota` have in common."""
        build = self._boot.running
        return {
            "app": build.app,
            "fw_version": build.version,
            "fw_id": build.build_id,
            "mac": self.mac,
            "arch": build.platform,
        }

    def stats(self) -> dict[str, int]:
        """Return the bytes of heap: all, free, and the lowest free since the boot."""
        phase = self._board.uptime() / RAM_PERIOD % 1
        in_use = RAM_WAVE * 2 * abs(phase - round(phase)) + RAM_PER_NOTIFICATION * len(self._board.outbox)
        free = RAM_BASE - int(in_use)
        self._ram_lowest = min(self._ram_lowest, free)
        return {"ram_total": RAM_SIZE, "ram_free": free, "ram_lwm": self._ram_lowest}

    def _get_info(self, args: Args) -> dict[str, Any]:
        # A device sets its clock by `utc_time`; this one uses the clock of its host, which is right.
        return self.info()

    def info(self) -> dict[str, Any]:
        """Return the answer to `Sys.GetInfo`."""
        stats = self.stats()
        return {
            **self.identity(),
            "uptime": int(self._board.uptime()),
            "ram_size": stats["ram_total"],
            "ram_free": stats["ram_free"],
            "ram_min_free": stats["ram_lwm"],
            "fs_size": self._files.size,
            "fs_free": self._files.free(),
            "wifi": self._wifi(),
            "eth": {"ip": ""},
        }

    def _wifi(self) -> dict[str, str]:
        wifi = self._board.config["wifi"]
        connected = wifi["sta"]["enable"] and wifi["sta"]["ssid"] != ""
        return {
            "sta_ip": f"192.168.1.{2 + self._serial[5] % 250}" if connected else "",
            "ap_ip": "192.168.4.1" if wifi["ap"]["enable"] else "",
            "status": "got ip" if connected else "disconnected",
            "ssid": wifi["sta"]["ssid"] if connected else "",
        }

    def _reboot(self, args: Args) -> None:
        delay = args.integer("delay_ms", DEFAULT_REBOOT_DELAY)
        if not 0 <= delay <= MAX_REBOOT_DELAY:
            raise RpcError(BAD_REQUEST, "invalid delay value")
        self._board.reset_after(delay / 1000, "asked to")

    def _scan(self, args: Args) -> list[dict[str, Any]]:
        """Return the configured network, if there is one, and a neighbour."""
        own = self._board.config["wifi.sta.ssid"]
        neighbour = self._serial[6:11].hex(":")
        found: list[dict[str, Any]] = [
            {"ssid": "guest", "bssid": f"02:{neighbour}", "auth": AUTH_OPEN, "channel": 11, "rssi": -78}
        ]
        if own:
            router = self._serial[11:16].hex(":")
            found.insert(0, {"ssid": own, "bssid": f"02:{router}", "auth": AUTH_WPA2, "channel": 6, "rssi": -52})
        return found
