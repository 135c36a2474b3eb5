"""The device's configuration, a tree of sections and typed values, and the `Config.*` service.

Keys and types are those of the defaults and never change: setting a value can neither add a key nor change a type.
The file holds only the differences from the defaults, as `conf9.json` of Mongoose OS does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mdashcore import _json
from mdashcore._errors import InvalidInput, RpcError
from mdashcore.virtual_device._flash import read_json, write_json
from mdashcore.virtual_device.rpc import BAD_REQUEST, FAILED_CODE, NOT_FOUND, Args, Method

__all__ = ["Config", "ConfigService", "default_config"]

MAX_SAVED: Final = 16_384  # bytes; a device parses the file in RAM, and the smallest has 40 KB free
INT_MIN: Final = -(2**31)  # a Mongoose OS integer is a C int
INT_MAX: Final = 2**31 - 1
CONFIG_REBOOT_DELAY: Final = 0.5  # seconds, so that the answer leaves first; as Mongoose OS


def default_config(device_id: str) -> dict[str, Any]:
    """Return the sections of firmware with Wi-Fi, RPC and the dashboard link."""
    return {
        "device": {"id": device_id, "license": "", "public_key": "", "sn": ""},
        "debug": {"level": 2, "udp_log_addr": "", "stdout_uart": 0, "stderr_uart": 0},
        "sys": {"tz_spec": ""},
        "update": {"timeout": 600, "commit_timeout": 0},
        "wifi": {
            "sta": {"enable": True, "ssid": "mos", "pass": "", "dhcp_hostname": ""},
            "ap": {"enable": False, "ssid": "Mongoose_??????", "pass": "Mongoose", "channel": 6},
        },
        "http": {"enable": True, "listen_addr": "80"},
        "rpc": {
            "enable": True,
            "max_frame_size": 4096,
            "max_queue_length": 25,
            "default_out_channel_idle_close_timeout": 10,
        },
        "dash": {"enable": True, "server": "", "token": "", "send_logs": True, "send_stats": True},
        "board": {"led1": {"pin": 2, "active_high": True}, "btn1": {"pin": 0, "pull_up": True}},
    }


class Config:
    """The tree in RAM, and the file in which it is saved. Before `power_on` it holds the defaults."""

    def __init__(self, file: Path, defaults: dict[str, Any]) -> None:
        self._file = file
        self._defaults = defaults
        self.tree: dict[str, Any] = defaults

    def power_on(self) -> None:
        """Load the saved values. Values that were set and not saved are forgotten.

        Raises:
            InvalidInput: the file does not fit the defaults.
        """
        saved = read_json(self._file)
        try:
            self.tree = overlay(self._defaults, {} if saved is None else saved)
        except InvalidInput as exc:
            raise InvalidInput(f"{self._file}: {exc}") from None

    def save(self) -> None:
        write_json(self._file, difference(self._defaults, self.tree))

    def set(self, patch: object) -> None:
        """Merge values into the tree. Raises `InvalidInput` for an unknown key, a wrong type, or too many bytes."""
        tree = overlay(self.tree, patch)
        if len(_json.encode(difference(self._defaults, tree))) > MAX_SAVED:
            raise InvalidInput(f"longer than {MAX_SAVED} bytes")
        self.tree = tree

    def __getitem__(self, key: str) -> Any:
        """Return the section or value at a dotted path. Raises `KeyError`."""
        found: Any = self.tree
        for name in key.split("."):
            if not isinstance(found, dict):
                raise KeyError(key)
            found = found[name]
        return found


def overlay(tree: dict[str, Any], patch: object, path: str = "") -> dict[str, Any]:
    """Return `tree` with the values of `patch`. Neither is changed.

    Raises:
        InvalidInput: a key is not in `tree`, or a value has another type.
    """
    if not isinstance(patch, Mapping):
        raise InvalidInput(f"{path or 'config'} must be an object")
    result = dict(tree)
    for name, value in patch.items():
        where = f"{path}.{name}" if path else name
        if name not in tree:
            raise InvalidInput(f"no such key: {where[:100]}")
        old = tree[name]
        result[name] = overlay(old, value, where) if isinstance(old, dict) else _typed(old, value, where)
    return result


def difference(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Return the smallest patch from `base` to `tree`: `overlay(base, difference(base, tree)) == tree`."""
    patch = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            if inner := difference(base[name], value):
                patch[name] = inner
        elif value != base[name]:
            patch[name] = value
    return patch


def _typed(old: object, value: object, where: str) -> object:
    if type(value) is not type(old):
        raise InvalidInput(f"{where} must be {_TYPE_NAMES[type(old)]}")
    if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        raise InvalidInput(f"{where} is out of range")
    return value


_TYPE_NAMES: Final = {bool: "true or false", int: "an integer", str: "a string"}


class ConfigService:
    """`Config.Get`, `Config.Set`, `Config.Save`."""

    def __init__(self, config: Config, reset_after: Callable[[float, str], None]) -> None:
        self._config = config
        self._reset_after = reset_after

    def methods(self) -> dict[str, Method]:
        return {
            "Config.Get": Method(self._get, "{key: %Q}"),
            "Config.Set": Method(self._set, "{config: %T, save: %B, reboot: %B}"),
            "Config.Save": Method(self._save, "{reboot: %B}"),
        }

    def _get(self, args: Args) -> Any:
        key = args.text("key", "")
        try:
            return self._config[key] if key else self._config.tree
        except KeyError:
            raise RpcError(NOT_FOUND, "invalid config key") from None

    def _set(self, args: Args) -> dict[str, bool]:
        save, reboot = args.flag("save"), args.flag("reboot")
        try:
            self._config.set(args.value("config"))
        except InvalidInput as exc:
            raise RpcError(BAD_REQUEST, f"invalid config value: {exc}") from None
        if save:
            return self._saved(reboot)
        return {"saved": False}  # and no reboot, which would lose the new values

    def _save(self, args: Args) -> dict[str, bool]:
        return self._saved(args.flag("reboot"))

    def _saved(self, reboot: bool) -> dict[str, bool]:
        try:
            self._config.save()
        except OSError as exc:
            raise RpcError(FAILED_CODE, f"error saving config: {exc.strerror}") from exc
        if reboot:
            self._reset_after(CONFIG_REBOOT_DELAY, "new configuration")
        return {"saved": True}
