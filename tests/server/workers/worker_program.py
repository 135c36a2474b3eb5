"""A worker that serves nothing, and does what the test says: a process that starts in a moment.

    python worker_program.py FOLDER NUMBER

The file FOLDER/NUMBER has what it does in each of its starts, a word for each; the last word counts for all later ones:

    serve           is ready, and ends when it is told
    code=N          ends with the code N before it is ready
    crash           is ready, and kills itself
    deaf            is ready, and ignores SIGTERM
    stubborn        is ready, and ignores SIGTERM and SIGINT
    late            receives signals, is ready when there is a file FOLDER/ready, and ignores SIGTERM
    stuck           is ready, and says that it goes down when it is told, but does not

It writes what happens to it into FOLDER/log, a line each; what it was given too if there is a file FOLDER/describe.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from pathlib import Path

import trio
import trio.lowlevel

from mdashcore.server.workers.channel import (
    AllMetrics,
    Channel,
    GetMetrics,
    PackedMetrics,
    Ready,
    Stopping,
    Task,
)


def note(folder: Path, *words: object) -> None:
    """Append a line to the log, in one write."""
    with (folder / "log").open("a") as log:
        log.write(" ".join(map(str, words)) + "\n")


def describe(first: Task) -> list[str]:
    """Return the words of a task. It takes a while: the modules of the server are imported."""
    task = pickle.loads(first.pickled)  # noqa: S301 - of the parent
    users = ",".join(user.name for user in task.config.users)
    resets = ",".join(user.name for user in task.reset_passwords)
    return [task.config.bind, f"users={users}", f"resets={resets}", f"first={task.is_first}"]


async def main(folder: Path, number: str) -> None:
    channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=os.dup(0)))))
    words = (folder / number).read_text().split()
    word = words.pop(0) if len(words) > 1 else words[0]
    (folder / number).write_text(" ".join(words or [word]))
    first = await channel.receive()
    assert isinstance(first, Task)
    note(folder, number, "start", word, *(describe(first) if (folder / "describe").exists() else ()))
    if word.startswith("code="):
        sys.exit(int(word.partition("=")[2]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.write)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            if word == "late":
                note(folder, number, "receives")
                while not (folder / "ready").exists():  # noqa: ASYNC110 - the test says when
                    await trio.sleep(0.01)
            channel.send(Ready("http://here", None))
            if word == "crash":
                await trio.lowlevel.checkpoint()
                while not (folder / "crash").exists():  # noqa: ASYNC110 - the test says when
                    await trio.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            nursery.start_soon(answer, channel, folder, number)
            async for received in signals:
                note(folder, number, signal.Signals(received).name)
                if received == signal.SIGHUP:
                    channel.send(Ready("http://here", None))
                elif word == "stuck":
                    channel.send(Stopping())
                elif word != "stubborn" and not (word in ("deaf", "late") and received == signal.SIGTERM):
                    break
        nursery.cancel_scope.cancel()


async def answer(channel: Channel, folder: Path, number: str) -> None:
    """Answer the parent, until it has gone."""
    while (message := await channel.receive()) is not None:
        if isinstance(message, GetMetrics):
            channel.send(PackedMetrics(message.id, f"of {number}".encode()))
        elif isinstance(message, AllMetrics):
            note(folder, number, "all", sorted(message.packed.items()), sorted(message.starts.items()))
    note(folder, number, "orphan")
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
