"""The observer of a hub: a holder of connections, which has to hear of changes immediately."""

from __future__ import annotations

from typing import Final, Protocol

from mdashcore._checked import CALLABLE, Check
from mdashcore.hub.feed import FeedItem
from mdashcore.identity import DeviceKey
from mdashcore.ota import Build
from mdashcore.shadow import Change

__all__ = ["HubObserver", "check_observer"]

_OBSERVER: Final = Check("an object with the methods of HubObserver, not a class", lambda it: not isinstance(it, type))


class HubObserver(Protocol):
    """Receives the changes that concern a holder of connections. The hub calls it as soon as a change is stored.

    Subclass it and override the methods that you need; by default they do nothing. No method may wait: an observer that
    has to close a socket starts to close it, and returns.
    """

    def shadow_changed(self, key: DeviceKey, change: Change) -> None:
        """Handle an update of a device's shadow, from any writer. If a delta is left, send it to the device."""
        return

    def device_revoked(self, key: DeviceKey) -> None:
        """Close the connection of a device whose token is not valid any more."""
        return

    def notified(self, account: str, item: FeedItem) -> None:
        """Handle a notification that this process has stored. If the store is shared, the bus delivers it too."""
        return

    def build_reported(self, key: DeviceKey, build: Build) -> None:
        """Handle a device's build, joined from all reports on its present connection. An update may wait for it."""
        return

    def device_removed(self, key: DeviceKey, node: str | None) -> None:
        """Handle the removal of a device.

        Args:
            node: the node that held its connection, or `None` if it was offline or that is not known.
        """
        return

    def key_revoked(self, account: str, key: str | None) -> None:
        """Close all that a key or session has opened, because it is not valid any more.

        If `key` is `None`, any of the account's credentials may be invalid. A client with a valid one connects again.
        """
        return


_OBSERVED: Final = [name for name, value in vars(HubObserver).items() if callable(value) and name[0] != "_"]


def check_observer(observer: HubObserver) -> None:
    """Raise `InvalidSetting` if an observer lacks a method, or is a class."""
    _OBSERVER.check("observer", observer)
    for name in _OBSERVED:
        CALLABLE.check(f"observer.{name}", getattr(observer, name, None))
