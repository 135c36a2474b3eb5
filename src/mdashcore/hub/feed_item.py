"""Notifications as they are given to subscribers and to the event log."""

from __future__ import annotations

import msgspec

__all__ = ["EventItem", "FeedItem"]


class FeedItem(msgspec.Struct, frozen=True, gc=False):
    """One notification, ready to be sent."""

    offset: int
    frame: bytes
    """The frame as made by `notifications.frame`."""


class EventItem(FeedItem, frozen=True, gc=False):
    """The notification of an event, which is kept in the event log too."""

    time: float
    """Unix seconds."""
