"""The frames of devices with defects, made of the messages that the device means to send."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from mdashcore.virtual_device.characters import Character

__all__ = ["CharacterWire"]

_ERROR: Final = re.compile(r'("error":\{.*"message":)"(?:[^"\\]|\\.)*"')

_NAN: Final = '{"method":"Dash.Shadow.Update","params":{"state":{"reported":{"temperature":nan}}}}'

_NO_METHOD: Final = '{"error":{"code":-32600,"message":"no method"}}'


class CharacterWire:
    """The frames of a device with a character, in the form that `Agent` expects."""

    def __init__(self, character: Character) -> None:
        self._character = character

    def frames(self, message: str) -> Iterator[str]:
        """Return the text frames for a message."""
        if self._character.broken_json:
            yield from self._split(_ERROR.sub(r"\1", message))
            if '"method":"Dash.Shadow.Update"' in message:
                yield from self._split(_NAN)
        else:
            yield from self._split(message)

    def answers(self, message: str) -> Iterator[str]:
        """Return the frames that the device sends because a frame has arrived, besides the answer that is due."""
        if self._character.byte_per_frame and '"method"' not in message:
            yield from self._split(_NO_METHOD)

    def _split(self, text: str) -> Iterator[str]:
        if self._character.byte_per_frame:
            yield from text
        else:
            yield text
