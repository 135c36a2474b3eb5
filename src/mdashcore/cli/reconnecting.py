"""Repeats a watch of a server that may be restarted meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, TypeVar

import trio

from mdashcore.cli.exits import CliError, Exit, describe
from mdashcore.client._notifications import BACKOFF, MAX_OUTAGE

__all__ = ["AWAY_EXITS", "reconnecting"]

T = TypeVar("T")

AWAY_EXITS: Final = (Exit.UNREACHABLE, Exit.NOT_NOW)
"""Errors that may pass: the server is down, or it is up and the device is not back yet."""


async def reconnecting(
    attempt: Callable[[Callable[[], None]], Awaitable[T]],
    *,
    may_pass: Callable[[Exit], bool],
    say: Callable[[str], None],
    last_words: str = "",
) -> T:
    """Call `attempt` again as long as its error may pass. Returns its result.

    Args:
        attempt: makes new connections. It calls its argument whenever the server has answered.
        may_pass: whether another attempt can succeed after an error of this kind.
        say: writes a line for the user: one when an outage begins, and one when it is over.
        last_words: added to the error when the server has been away for too long.

    Raises:
        CliError: the server was away for too long.
        BaseException: an error of `attempt` that may not pass.
    """
    failures, since = 0, inf

    def answered() -> None:
        nonlocal failures, since
        if failures:
            say("The server is back")
        failures, since = 0, inf

    while True:
        try:
            return await attempt(answered)
        except BaseException as exc:
            found = describe(exc)
            if found is None or not may_pass(found[1]):
                raise
            words, code = found
        since = min(since, trio.current_time())
        if trio.current_time() >= since + MAX_OUTAGE:
            raise CliError(f"{words}. {last_words}" if last_words else words, code)
        if not failures:
            say(f"Looking again until it is back: {words}")
        failures += 1
        await trio.sleep(BACKOFF.delay(failures))
