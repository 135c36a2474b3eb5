"""The message bus on Redis' pub/sub: one connection listens for all subscribers of a process, of thousands of topics.

Commands on it are pipelined: no subscriber waits for the answer to another one's command. A topic is a channel while it
has subscribers; with the last of them it is gone from the server too.

When that connection is lost, the bus makes another one and subscribes again by itself. Messages that were published
meanwhile are lost, so every subscriber gets one `StorageError` from its iterator, at the place of the gap: after the
earlier messages, and when the subscription is live again. A subscriber that then reads its log has missed nothing. The
iterator goes on after that. The same happens if a subscriber was so slow that messages had to be dropped.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from mdash_backends._bus_queue import BusQueue
from mdash_backends._redis_client import ANY_SLOT, RedisClient
from mdash_backends._redis_connection import MAX_WAIT, SILENCE_STEPS
from mdash_backends._redis_errors import REDIS_FAILURES, AskRedirect, ConnectionLost, reason
from mdash_backends._redis_pipeline import Pipeline
from mdash_backends._redis_servers import RedisHome, takes_writes
from mdashcore._errors import StorageError

__all__ = ["RedisBus"]

_log = logging.getLogger(__name__)

RECONNECT_DELAY: Final = 0.2  # seconds between two tries to connect: all has to work 5 seconds after the server is back

TEST_INTERVAL: Final = 1.0  # seconds of silence, after which a connection is tested; also between two questions for
# the role of its server

SUBSCRIBE_SLICE: Final = 500  # channels in one command on a new connection: 40 KB, and milliseconds of the server

_NO_ANSWER: Final = "no answer"
_REPLICA: Final = "the server is a replica now, and another one the master"


class RedisBus:
    """Topics as channels. Channels do not belong to a database, so their names contain its number.

    Args:
        probe: a key that may be read, to learn whether the server is alive and its cluster too.
    """

    def __init__(self, client: RedisClient, tasks: TaskGroup, *, prefix: str, db: int, probe: bytes) -> None:
        self._client = client
        self._client.on_demotion = self._leave_server
        self._tasks = tasks
        self._prefix = f"{prefix}:bus:{db}:"
        self._probe = probe
        self._channels: dict[bytes, set[_Subscription]] = {}
        self._pipeline: Pipeline | None = None
        self._asked: defaultdict[bytes, deque[list[_Subscription]]] = defaultdict(deque)
        """By channel: the subscriptions that wait for each answer, in the order in which they were asked for."""
        self._waiting: dict[_Subscription, float] = {}  # those that are not live yet, and since when
        self._answered = anyio.Event()
        self._listening = False
        self._last_received = 0.0
        self._reason = _NO_ANSWER

    async def publish(self, topic: str, message: bytes) -> None:
        await self._client.call(ANY_SLOT, b"PUBLISH", self._name(topic), bytes(message))

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        name = self._name(topic)
        subscription = _Subscription()
        self._channels.setdefault(name, set()).add(subscription)
        try:
            self._listen_on()
            self._ask(name, subscription)
            await self._until_live(subscription)
            yield subscription
        finally:
            self._leave(name, subscription)

    def _name(self, topic: str) -> bytes:
        return (self._prefix + topic).encode("utf-8", "surrogatepass")

    async def _until_live(self, subscription: _Subscription) -> None:
        """Wait for the answer of the server. Raises `StorageError` if `_refuse_late` has given it up."""
        self._waiting[subscription] = anyio.current_time()
        try:
            while not subscription.live.is_set():
                await subscription.live.wait()
        finally:
            del self._waiting[subscription]
        if subscription.refusal is not None:
            raise subscription.refusal from TimeoutError(f"no answer within {self._client.home.timeout:g} s")

    async def _refuse_late(self) -> None:
        """Give up subscriptions that the server does not answer in time: one timer for all, as there are thousands.

        As long as it sends anything else they are answered in turn, until `MAX_WAIT`.
        """
        timeout = self._client.home.timeout
        while True:
            await anyio.sleep(timeout / SILENCE_STEPS)
            now = anyio.current_time()
            silent = now - self._last_received >= timeout
            for subscription, since in self._waiting.items():
                if now - since >= (timeout if silent else MAX_WAIT):
                    subscription.refuse(f"{self._client.home}: not subscribed in time: {self._reason}")

    def _ask(self, name: bytes, subscription: _Subscription) -> None:
        """Ask Redis to acknowledge a subscription, if there is a connection. A new connection asks for all.

        An already subscribed channel is asked too, because messages that were published earlier come before the answer.
        """
        if self._send(b"SUBSCRIBE", name):
            self._asked[name].append([subscription])

    def _leave(self, name: bytes, subscription: _Subscription) -> None:
        subscription.end()
        others = self._channels[name]
        others.discard(subscription)
        if not others:
            del self._channels[name]
            self._send(b"UNSUBSCRIBE", name)

    def _send(self, command: bytes, *names: bytes) -> bool:
        if self._pipeline is None:
            return False
        try:
            self._pipeline.send(command, *names)
        except ConnectionLost:
            return False
        return True

    # The connection

    def _listen_on(self) -> None:
        if not self._listening:
            try:
                self._tasks.start_soon(self._listen)
            except RuntimeError as exc:  # the group has ended
                raise StorageError("the backend is closed") from exc
            self._listening = True

    async def _listen(self) -> None:
        """Keep a connection subscribed as long as there are subscribers."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._refuse_late)
            try:
                while self._channels:
                    try:
                        await self._receive()
                    except* REDIS_FAILURES as errors:
                        self._lost(errors)
                    await anyio.sleep(RECONNECT_DELAY)
            finally:  # without waiting: a subscriber that comes next starts this again
                self._listening = False
                for subscription in self._subscriptions():
                    subscription.refuse("the backend is closed")
                    subscription.end()
                tasks.cancel_scope.cancel()

    def _leave_server(self) -> None:
        """Connect again: a replica keeps its subscribers, and passes on what is published only while it is in step."""
        if self._pipeline is not None:
            self._pipeline.close(ConnectionLost(_REPLICA))

    async def _receive(self) -> None:
        """Subscribe to all channels on a new connection, and distribute its messages until it is lost."""
        async with anyio.create_task_group() as tasks:
            pipeline = self._pipeline = await self._client.home.connect(tasks, self._dispatch)
            self._asked.clear()
            tasks.start_soon(self._test, pipeline)
            tasks.start_soon(self._watch_role, pipeline)
            tasks.start_soon(self._ask_for_all)
            await pipeline.closed.wait()
            raise ConnectionLost("the connection was lost") from pipeline.failure

    async def _ask_for_all(self) -> None:
        """Subscribe to all channels, a slice at a time, so that a new connection does not begin with megabytes."""
        left = deque(self._channels)
        while left:
            names = [left.popleft() for _ in range(min(len(left), SUBSCRIBE_SLICE))]
            waiting = {name: [*self._channels[name]] for name in names if name in self._channels}
            if not waiting or not self._send(b"SUBSCRIBE", *waiting):
                continue  # all of them were left; or the connection is lost, and the next one asks again
            for name, subscriptions in waiting.items():
                self._asked[name].append(subscriptions)
            while subscriptions in self._asked.get(name, ()):  # of the last channel, which is answered last
                self._answered = anyio.Event()
                await self._answered.wait()

    def _dispatch(self, message: list[Any]) -> None:
        self._last_received = anyio.current_time()
        match message:
            case [b"message", name, value]:
                for subscription in self._channels.get(name, ()):
                    subscription.offer(value)
            case [b"subscribe", name, _] if name in self._asked:
                asked = self._asked[name]
                for subscription in asked.popleft():  # the answers have the order of the questions
                    subscription.begin(self._client.home)
                if not asked:
                    del self._asked[name]
                self._reason = _NO_ANSWER
                self._answered.set()

    async def _test(self, pipeline: Pipeline) -> None:
        """Read a key after each interval of silence. Raises if no answer comes in time, or if the cluster is down.

        A node that is cut off from its cluster keeps its subscribers, and answers a PING: they would receive nothing.
        While messages come the connection works.
        """
        timeout = self._client.home.timeout
        while True:
            await anyio.sleep(TEST_INTERVAL)
            if anyio.current_time() - self._last_received < TEST_INTERVAL:
                continue
            try:
                with anyio.fail_after(timeout), suppress(AskRedirect):  # the key is elsewhere: the cluster works
                    await pipeline.ask(b"GET", self._probe)
            except TimeoutError as exc:
                raise TimeoutError(f"no answer within {timeout:g} s") from exc

    async def _watch_role(self, pipeline: Pipeline) -> None:
        """Ask the server for its role in each interval. Raises if it is not the master any more.

        It is asked also while messages come: a replica passes them on, after a time in which it had lost some. `_test`
        sees to it that the answers come.
        """
        while True:
            await anyio.sleep(TEST_INTERVAL)
            if not takes_writes(await pipeline.ask(b"HELLO", 3)):
                self._client.leave(pipeline.host, pipeline.port)
                raise ConnectionLost(_REPLICA)

    def _lost(self, errors: BaseExceptionGroup[Exception]) -> None:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self._pipeline = None
        for subscription in self._subscriptions():
            subscription.lose()
        if (why := reason(error)) != self._reason:  # logged once, however long it lasts
            self._reason = why
            _log.warning("%s: subscriptions are interrupted: %s", self._client.home, why)

    def _subscriptions(self) -> list[_Subscription]:
        return [subscription for channel in self._channels.values() for subscription in channel]


class _Subscription(BusQueue):
    """The messages of one subscriber."""

    def __init__(self) -> None:
        super().__init__()
        self.live = anyio.Event()
        self.refusal: StorageError | None = None
        self._lost = False

    def refuse(self, text: str) -> None:
        """Give up waiting for the server's answer."""
        if not self.live.is_set():
            self.refusal = StorageError(text)
            self.live.set()

    def begin(self, home: RedisHome) -> None:
        """Mark the subscription as live: messages that are published from now on arrive."""
        self.live.set()
        if self._lost:
            self._lost = False
            self.interrupt(f"{home}: the connection was lost, and messages with it")

    def lose(self) -> None:
        """Mark the subscription as interrupted: messages that are published from now on do not arrive."""
        if self.live.is_set():
            self.live = anyio.Event()
            self._lost = True

    def offer(self, message: bytes) -> None:
        """Put a message into the queue, unless it is from before the subscription."""
        if self.live.is_set():
            super().offer(message)
