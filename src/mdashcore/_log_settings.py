"""The levels and forms of a server's log, as the configuration file and the command line name them."""

from __future__ import annotations

from typing import Final

__all__ = ["LOG_FORMATS", "LOG_LEVELS"]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

LOG_FORMATS: Final = ("text", "json")
