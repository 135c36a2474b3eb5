"""The settings of a node."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mdashcore._checked import checked, mapping, whole
from mdashcore._connection_limits import ConnectionLimits
from mdashcore.hub.deltas import MAX_DELTA_LIMIT, MIN_DELTA_LIMIT
from mdashcore.trio.transport.skipped import MAX_SKIPPED

__all__ = ["NodeSettings"]


@attrs.frozen(field_transformer=checked)
class NodeSettings:
    """The settings of a node that an operator may want to change."""

    ping_interval: float = 15.0
    """Seconds between two pings; a silent connection is found after two to three of them."""

    introduction_delay: float = 0.75
    """Seconds that a new connection has to report `ota` by itself, before the node asks the device (as mDash did)."""

    call_timeout: float = 10.0
    """Seconds for a call that the node makes on its own."""

    max_answer: int = attrs.field(default=ConnectionLimits().max_answer, validator=whole(1, MAX_SKIPPED))
    """Bytes of a device's answer to a call, up to 16 MiB: each connection may hold one in memory."""

    delta_limits: Mapping[str, int] = attrs.field(
        factory=dict, validator=mapping(whole(MIN_DELTA_LIMIT, MAX_DELTA_LIMIT))
    )
    """By platform, as `reported.ota` has it: bytes of the largest frame with a delta that a device is sent."""
