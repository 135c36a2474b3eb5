"""The task of a worker, as the parent gives it."""

from __future__ import annotations

import attrs

from mdashcore.server.config import ServerConfig, User

__all__ = ["WorkerTask"]


@attrs.frozen
class WorkerTask:
    """What a worker does. It does not read the configuration itself: a file may have changed since the start."""

    number: int
    config: ServerConfig
    """The configuration, with the port that all workers share. Only the first worker of a start has users in it."""
    reset_passwords: tuple[User, ...] = ()
    is_first: bool = False
    """Whether no worker has run before it: it also does what is done once for a service."""
