"""A virtual Mongoose OS device: its services over a folder, without the connection.

`VirtualDevice` answers requests as a real device does, applies shadow deltas, takes firmware images, boots
them, and rolls them back. With a `Character` it behaves as other devices in the field do. An agent
connects it to a server.
"""

from __future__ import annotations

from mdashcore.virtual_device.boot import FirmwareBuild
from mdashcore.virtual_device.characters import CHARACTERS, Character, join
from mdashcore.virtual_device.device import VirtualDevice

__all__ = ["CHARACTERS", "Character", "FirmwareBuild", "VirtualDevice", "join"]
