"""What can go wrong between this process and a Redis server: its answers that are errors, and lost connections."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

__all__ = [
    "REDIS_FAILURES",
    "AskRedirect",
    "ConnectionLost",
    "MovedRedirect",
    "NotConnected",
    "ReadOnlyServer",
    "RedisError",
    "ReplyError",
    "TryAgain",
    "UnknownCommand",
    "UnknownScript",
    "log_unexpected",
    "reason",
    "reply_error",
    "unexpected_is_lost",
]

_log = logging.getLogger(__name__)


class RedisError(Exception):
    """The base of the errors here."""


class ConnectionLost(RedisError):
    """The connection has ended, so that no answer comes."""


class NotConnected(ConnectionLost):
    """There is no connection, so the command was not sent."""


class ReplyError(RedisError):
    """The server has answered with an error."""


class UnknownCommand(ReplyError):
    """The server is too old for a command."""


class UnknownScript(ReplyError):
    """The server does not have the script of this name, or not any more."""


class ReadOnlyServer(ReplyError):
    """The server is a replica, which takes no writes."""


class TryAgain(ReplyError):
    """Some of a command's keys are on this node, and the others on the one to which their slot is being moved."""


class AskRedirect(ReplyError):
    """Another node of the cluster has the keys of this command, for now (Redis Cluster specification, "ASK
    redirection").

    Attributes:
        host: that node's; empty if it is on the host of the server that answers.

    Raises:
        ValueError: the text names no address.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        *_, address = text.split(" ")
        host, _, port = address.rpartition(":")
        self.host = "" if host == "?" else host
        self.port = int(port)
        if not 0 < self.port < 2**16:
            raise ValueError("no port has this number")


class MovedRedirect(AskRedirect):
    """Another node of the cluster owns the slot now."""


_BY_CODE: Final[dict[str, type[ReplyError]]] = {
    "ASK": AskRedirect,
    "MOVED": MovedRedirect,
    "NOSCRIPT": UnknownScript,
    "READONLY": ReadOnlyServer,
    "TRYAGAIN": TryAgain,
}


REDIS_FAILURES: Final = (RedisError, OSError, UnicodeError, BrokenResourceError, ClosedResourceError, EndOfStream)
"""The errors of a failed call: `TimeoutError` is an `OSError`, and a bad host name a `UnicodeError`."""


def reply_error(text: str) -> ReplyError:
    """Return the error of a server's answer, such as ``MOVED 3999 127.0.0.1:6381``. Its first word is a code."""
    code, _, rest = text.partition(" ")
    if code == "ERR":
        if rest.lower().startswith("unknown command"):  # its arguments follow, maybe a password among them
            return UnknownCommand(" ".join(rest.split(" ")[:3]).rstrip(","))
        if " -READONLY " in rest:  # of a script, until Redis 6.2
            return ReadOnlyServer(rest)
        return ReplyError(rest)
    try:
        return _BY_CODE.get(code, ReplyError)(text)
    except ValueError:
        return ReplyError(text)


@contextmanager
def unexpected_is_lost() -> Iterator[None]:
    """Turn any error but `REDIS_FAILURES` into `ConnectionLost`: an answer that nothing expects, as of another program
    on the port, and a defect cost a connection, and not the tasks of all others."""
    try:
        yield
    except REDIS_FAILURES:
        raise
    except Exception as exc:
        raise log_unexpected(exc) from exc


_logged: Final[set[tuple[str, int | None]]] = set()
"""The lines of this program whose errors were logged with a traceback."""


def log_unexpected(error: Exception) -> ConnectionLost:
    """Log an error with its traceback, once for each line that raises it. Returns the error of the connection."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if (place := (frame.filename, frame.lineno)) not in _logged:
        _logged.add(place)
        _log.error("an answer could not be handled, the connection is closed", exc_info=error)
    return ConnectionLost(f"unexpected answer ({type(error).__name__})")


def reason(error: BaseException) -> str:
    """Return the texts of an error and of its causes."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause) or type(cause).__name__
        if text not in said:
            said.append(text)
        cause = cause.__cause__
    return ": ".join(said)
