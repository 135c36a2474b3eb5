"""The immediate mode: requests and messages of devices are processed without a task, on stores that never wait.

A store says with the capability `INSTANT` that it never waits. Then the task that reads from all sockets runs, in one
step and to their end, the same coroutines that the task of a connection would run. `memory://` is such a store.

Only `mdashcore.server.gateway` imports this folder, and chooses between its classes and those that they derive from.
They give the same answers, sooner: the folder and the choice can be deleted.
"""

from mdashcore.server.immediate.lane import ImmediateLane
from mdashcore.server.immediate.link import ImmediateLink

__all__ = ["ImmediateLane", "ImmediateLink"]
