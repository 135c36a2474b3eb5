"""The bounds of one connection."""

from __future__ import annotations

import attrs

from mdashcore._checked import checked, whole

__all__ = ["ConnectionLimits"]


@attrs.frozen(field_transformer=checked)
class ConnectionLimits:
    """The bounds of one connection. Each is far above what a healthy peer needs."""

    max_frame: int = 2**17
    """Bytes of one frame, in and out: AWS IoT's message limit; a firmware chunk is far below."""

    max_answer: int = 2**17
    """Bytes of a frame that answers a call of this side. It may be more than `max_frame`."""

    max_calls: int = 256
    """Calls waiting for an answer. A Mongoose device queues 25 frames."""

    max_requests: int = 64
    """Requests of the peer not yet answered. One more is answered with error 429."""

    max_events: int = 1024
    """Events not yet returned by `events()`. Only an embedder that never calls `events()` reaches this."""

    max_outbox: int = 2**20
    """Bytes not yet returned by `data_to_send()`. A peer that is so far behind does not read. Calls then raise `Busy`,
    and a frame of the peer that needs an answer closes the connection.
    """

    max_corrections: int = attrs.field(default=8, validator=whole(0))
    """Unreadable frames that are answered with an error. After so many a developer has seen the error, and a peer that
    answers errors with more garbage must not keep the two sides busy.
    """

    @property
    def max_message(self) -> int:
        """The size in bytes of the largest frame that a transport has to let through."""
        return max(self.max_frame, self.max_answer)
