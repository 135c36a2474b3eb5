"""The `GPIO.*` service: the pins of an ESP32, each connected only to its own output latch."""

from __future__ import annotations

from typing import Final

from mdashcore._errors import RpcError
from mdashcore.virtual_device.board import Board
from mdashcore.virtual_device.rpc import BAD_REQUEST, Args, Method

__all__ = ["Gpio"]

PINS: Final = range(40)
OUTPUTS: Final = range(34)  # on an ESP32, 34 to 39 are inputs only


class Gpio:
    """Pin levels, all 0 after a boot. A pin reads as it was last written."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def power_on(self) -> None:
        self._levels = dict.fromkeys(PINS, 0)

    def methods(self) -> dict[str, Method]:
        return {
            "GPIO.Read": Method(self._read, "{pin: %d}"),
            "GPIO.Write": Method(self._write, "{pin: %d, value: %d}"),
            "GPIO.Toggle": Method(self._toggle, "{pin: %d}"),
        }

    def _read(self, args: Args) -> dict[str, int]:
        return {"value": self._levels[_pin(args, PINS)]}

    def _write(self, args: Args) -> None:
        pin, value = _pin(args, OUTPUTS), args.integer("value")
        if value not in (0, 1):
            raise RpcError(BAD_REQUEST, "value must be 0 or 1")
        self._set(pin, value)

    def _toggle(self, args: Args) -> dict[str, int]:
        pin = _pin(args, OUTPUTS)
        self._set(pin, 1 - self._levels[pin])
        return {"value": self._levels[pin]}

    def _set(self, pin: int, value: int) -> None:
        self._levels[pin] = value
        self._board.log(f"GPIO {pin} = {value}")


def _pin(args: Args, allowed: range) -> int:
    pin = args.integer("pin")
    if pin not in allowed:
        raise RpcError(BAD_REQUEST, "error setting pin mode")
    return pin
