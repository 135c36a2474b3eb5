"""The parent of the workers: starts them, starts a dead one again, passes signals on, and ends when all have ended."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

import attrs
import trio

from mdashcore._backoff import Backoff
from mdashcore.server.config import ServerConfig, User
from mdashcore.server.listening import reserved
from mdashcore.server.service_manager import Manager
from mdashcore.server.workers.channel import Ready
from mdashcore.server.workers.process import WorkerProcess
from mdashcore.server.workers.task import WorkerTask
from mdashcore.trio.stop_signals import has_terminal, open_stop_signals

__all__ = ["Supervisor", "WorkerFailed"]

_log = logging.getLogger(__name__)

RESTART_BACKOFF: Final = Backoff(first=0.5, most=30.0)
"""The waits before a worker that has died is started again. The others serve meanwhile."""

HANG_TIMEOUT: Final = 60.0  # seconds without a sign of life after which a worker is killed: as long as systemd waits

WORKER_START_TIMEOUT: Final = 300.0  # seconds for a worker to accept connections: as in the unit for systemd

STOP_GRACE: Final = 10.0  # seconds from the end of the draining until a worker is killed: it needs five

RELOAD_TIMEOUT: Final = 5.0  # seconds in which all workers read the certificate again

HANG_CHECK_INTERVAL: Final = 5.0  # seconds between two looks for workers that hang

METRICS_TIMEOUT: Final = 2.0  # seconds for a worker's metrics: they are collected in a few milliseconds


class WorkerFailed(Exception):
    """A worker has ended before all workers were ready, or had to be killed at the end."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.code = code
        """Its exit code, of which it has said the reason itself; else minus the number of the signal that has killed
        it, or 0 if it could not be started."""


class Supervisor:
    """The workers of a configuration.

    Args:
        command: starts a worker. Its number is appended.
        reset_passwords: accounts that get another password, once.
        manager: is told when all workers are ready, when they reload, and when they stop.
    """

    def __init__(
        self,
        config: ServerConfig,
        command: Sequence[str],
        *,
        reset_passwords: Sequence[User] = (),
        manager: Manager,
    ) -> None:
        self._config = config
        self._command = command
        self._reset_passwords = tuple(reset_passwords)
        self._manager = manager
        self._workers: list[WorkerProcess] = []
        self._is_started = False
        self._is_ending = False
        self._failure: WorkerFailed | None = None
        self._stops, self._stop_numbers = trio.open_memory_channel[int](8)  # more signals than a person sends

    async def run(self, on_start: Callable[[Ready], object]) -> None:
        """Run until SIGTERM or SIGINT, and until all workers have ended then.

        Args:
            on_start: called when all workers accept connections, with the addresses.

        Raises:
            BindError: the address cannot be bound.
            WorkerFailed: a worker has failed to start, or to end.
        """
        had_terminal = has_terminal()
        async with AsyncExitStack() as stack:
            stops = stack.enter_context(open_stop_signals())
            hangups = stack.enter_context(trio.open_signal_receiver(signal.SIGHUP))
            bind = await stack.enter_async_context(reserved(self._config.bind))
            metrics_bind = self._config.metrics_bind
            if metrics_bind is not None:
                metrics_bind = await stack.enter_async_context(reserved(metrics_bind, "--metrics-bind"))
            self._config = attrs.evolve(self._config, bind=bind, metrics_bind=metrics_bind)
            self._workers = [
                WorkerProcess(number, [*self._command, str(number)], self._send_all_metrics)
                for number in range(self._config.workers)
            ]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._forward_stops, stops)
                nursery.start_soon(self._reload, hangups, had_terminal)
                nursery.start_soon(self._start_all, nursery, on_start)
                nursery.start_soon(self._watch)
                await self._end(await self._stop_numbers.receive())
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    # Starting

    async def _start_all(self, nursery: trio.Nursery, on_start: Callable[[Ready], object]) -> None:
        """Start the first worker alone: it makes users, and finds what is wrong with the configuration. Then the others
        together.
        """
        first, *others = self._workers
        nursery.start_soon(self._keep_running, first)
        await first.was_ready.wait()
        for worker in others:
            nursery.start_soon(self._keep_running, worker)
        for worker in others:
            await worker.was_ready.wait()
        self._is_started = True
        if first.place is not None:
            self._manager.notify_ready(self._where)
            on_start(first.place)
        nursery.start_soon(self._manager.keep_alive, self._store_answers)

    @property
    def _where(self) -> str:
        place = self._workers[0].place
        return f"{place.url if place else self._config.bind} with {len(self._workers)} workers"

    async def _keep_running(self, worker: WorkerProcess) -> None:
        """Run a worker, and run it again when it has ended, until the service ends."""
        task = self._task(worker.number, is_first=worker.number == 0)
        while True:
            try:
                code = await worker.run(task, lambda: self._is_ending)
                end = ending(code)
            except OSError as exc:
                code, end = 0, f"cannot be started ({exc})"
            if self._is_ending:
                return
            if not self._is_started:
                self._fail(f"worker {worker.number} {end} before all workers were ready", code)
                return
            if code == 0 and worker.is_ready:
                _log.info("worker %d was told to end: it is started again", worker.number)
            else:
                self._note_stable(worker)
                worker.failures += 1
                if worker.failures == 1:
                    words = "worker %d %s: it is started again until it runs, with pauses of up to %g s"
                    _log.error(words, worker.number, end, RESTART_BACKOFF.most)
                if not await worker.pause(RESTART_BACKOFF.delay(worker.failures)):
                    return
            task = self._task(worker.number)

    def _note_stable(self, worker: WorkerProcess) -> None:
        """End the outage of a worker that has run for a while."""
        if worker.failures and worker.ready_for() >= RESTART_BACKOFF.stable:
            _log.warning("worker %d runs again", worker.number)
            worker.failures = 0

    def _task(self, number: int, *, is_first: bool = False) -> WorkerTask:
        """Return the task of a worker. Users that were removed meanwhile, and passwords, are not set again."""
        if is_first:
            return WorkerTask(number, self._config, self._reset_passwords, is_first=True)
        return WorkerTask(number, attrs.evolve(self._config, users=()))

    def _fail(self, words: str, code: int) -> None:
        if self._failure is None:
            self._failure = WorkerFailed(words, code)
            self._stop(signal.SIGTERM)

    # Signals

    def _stop(self, number: int) -> None:
        with suppress(trio.WouldBlock):
            self._stops.send_nowait(number)

    async def _forward_stops(self, stops: AsyncIterator[int]) -> None:
        async for number in stops:
            _log.info("%s: going down", signal.Signals(number).name)
            self._stop(number)

    async def _reload(self, hangups: AsyncIterator[int], had_terminal: bool) -> None:
        async for _ in hangups:
            if had_terminal and not has_terminal():
                _log.info("the terminal was closed: going down")
                self._stop(signal.SIGINT)
                continue
            self._manager.notify_reloading()
            with trio.move_on_after(RELOAD_TIMEOUT):
                async with trio.open_nursery() as nursery:
                    for worker in self._workers:
                        nursery.start_soon(worker.reload)
            if self._is_started:
                self._manager.notify_ready(self._where)

    async def _end(self, number: int) -> None:
        """End all workers. A second signal ends them immediately, a time-out kills them."""
        self._is_ending = True
        self._manager.notify_stopping()
        config = self._config
        patience = config.shutdown_delay + config.drain_seconds if number == signal.SIGTERM else 0.0
        with trio.move_on_after(patience + STOP_GRACE) as timer:
            async with trio.open_nursery() as nursery:

                async def hurry() -> None:
                    async for _ in self._stop_numbers:
                        timer.deadline = trio.current_time() + STOP_GRACE
                        for worker in self._workers:
                            worker.send_signal(signal.SIGINT)

                nursery.start_soon(hurry)
                for worker in self._workers:
                    worker.send_signal(number)
                for worker in self._workers:
                    await worker.wait_idle()
                nursery.cancel_scope.cancel()
        for worker in self._workers:
            if worker.kill():
                words = f"worker {worker.number} has not ended in time, and is killed"
                _log.error(words)
                self._failure = self._failure or WorkerFailed(words, 1)

    # Health and metrics

    async def _store_answers(self) -> bool:
        """Return whether the store answers the workers that run, if any does."""
        running = [worker for worker in self._workers if worker.is_ready]
        return bool(running) and all(worker.store_answers for worker in running)

    async def _watch(self) -> None:
        """Kill workers that give no sign of life, and those that go down and do not end, for ever. They are started
        again.
        """
        patience = self._config.shutdown_delay + self._config.drain_seconds + STOP_GRACE
        while True:
            await trio.sleep(HANG_CHECK_INTERVAL)
            for worker in self._workers:
                self._note_stable(worker)
                if self._is_ending:
                    continue
                if worker.silent_for() >= (HANG_TIMEOUT if worker.is_ready else WORKER_START_TIMEOUT):
                    _log.error("worker %d gives no sign of life, and is killed", worker.number)
                    worker.kill()
                elif worker.stopping_for() >= patience:
                    _log.error("worker %d was told to end and has not in time, and is killed", worker.number)
                    worker.kill()

    async def _send_all_metrics(self, asking: WorkerProcess) -> None:
        """Collect the metrics of all workers, and send them to one."""
        packed: dict[str, bytes] = {}

        async def collect(worker: WorkerProcess) -> None:
            found = await worker.get_metrics()
            if found is not None:
                packed[str(worker.number)] = found

        with trio.move_on_after(METRICS_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for worker in self._workers:
                    nursery.start_soon(collect, worker)
        starts = {str(worker.number): worker.starts for worker in self._workers}
        asking.send_all_metrics({name: packed[name] for name in starts if name in packed}, starts)


def ending(code: int) -> str:
    """Return how a process has ended, in words."""
    if code >= 0:
        return f"has ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
