"""The parent of the workers, with real processes that serve nothing: how they start, die, are told and end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from children import default_signals

from mdashcore._backoff import Backoff
from mdashcore.server.config import ServerConfig, User
from mdashcore.server.listening import BindError
from mdashcore.server.workers import supervisor as supervising
from mdashcore.server.workers.supervisor import Supervisor, WorkerFailed

PROGRAM = Path(__file__).with_name("worker_program.py")
PATIENCE = 60.0  # seconds for what has to come: far above what it takes on a busy machine
USERS = (User("root", "secret", admin=True),)


class Manager:
    """A service manager that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.answers: Callable[[], object] | None = None

    def notify_ready(self, url: str, metrics_url: str | None = None) -> None:
        self.told.append(f"ready {url.partition(' ')[2]}")

    def notify_reloading(self) -> None:
        self.told.append("reloading")

    def notify_stopping(self) -> None:
        self.told.append("stopping")

    async def keep_alive(self, answers) -> None:
        self.answers = answers
        await trio.sleep_forever()


@attrs.define
class Service:
    """A supervisor that runs."""

    folder: Path
    manager: Manager
    started: trio.Event
    supervisor: Supervisor

    def log(self, *words: str) -> list[str]:
        """The lines of the workers that have these words, in their order."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if all(word in line.split() for word in words)]

    async def wait(self, found: Callable[[], object]) -> None:
        """Wait until that is so."""
        with trio.fail_after(PATIENCE):
            while not found():  # noqa: ASYNC110 - of another process
                await trio.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the parent, which is this process."""
        os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def signals():
    """Signals that the tests send to this process are received, also if it was started in the background."""
    with default_signals():
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses take no time."""
    monkeypatch.setattr(supervising, "RESTART_BACKOFF", Backoff(first=0.001, most=0.002, stable=0.001))


@pytest.fixture
def supervise(tmp_path):
    """Runs workers that do as the words say: ``async with supervise("serve", "crash serve") as service``."""

    @asynccontextmanager
    async def supervise(*words: str, **settings) -> AsyncIterator[Service]:
        for number, word in enumerate(words):
            (tmp_path / str(number)).write_text(word)
        config = ServerConfig(**{"bind": "127.0.0.1:0", "users": USERS, "workers": len(words), **settings})
        manager, started = Manager(), trio.Event()
        supervisor = Supervisor(
            config, [sys.executable, str(PROGRAM), str(tmp_path)], reset_passwords=USERS, manager=manager
        )
        service = Service(tmp_path, manager, started, supervisor)
        with trio.fail_after(2 * PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.run, lambda place: started.set())
                yield service

    return supervise


async def test_all_start_and_end_together(supervise, tmp_path):
    """The first alone, with the users; then the others, without. All have one port. A signal ends them, in order."""
    (tmp_path / "describe").touch()
    async with supervise("serve", "serve", "serve") as service:
        await service.started.wait()
        starts = service.log("start")
        ports = {line.split()[3] for line in starts}
        assert len(ports) == 1
        assert not ports.pop().endswith(":0")
        assert starts[0].startswith("0 ")
        assert [line.split()[4:] for line in starts] == [
            ["users=root", "resets=root", "first=True"],
            ["users=", "resets=", "first=False"],
            ["users=", "resets=", "first=False"],
        ]
        assert service.manager.told == ["ready with 3 workers"]
        service.send(signal.SIGTERM)
    assert service.manager.told == ["ready with 3 workers", "stopping"]
    assert sorted(service.log("SIGTERM")) == ["0 SIGTERM", "1 SIGTERM", "2 SIGTERM"]


async def test_a_dead_one_is_started_again(supervise, tmp_path, caplog):
    """Again and again until it runs; the log says so once, and once that it runs. Users and passwords are not set
    again. All others go on."""
    (tmp_path / "describe").touch()
    async with supervise("crash code=1 code=1 serve", "serve") as service:
        await service.started.wait()
        (service.folder / "crash").touch()
        await service.wait(lambda: service.log("0", "start", "serve"))
        assert [line.split()[2] for line in service.log("0", "start")] == ["crash", "code=1", "code=1", "serve"]
        assert {tuple(line.split()[4:]) for line in service.log("0", "start")[1:]} == {
            ("users=", "resets=", "first=False")
        }
        assert len(service.log("1", "start")) == 1
        worker = service.supervisor._workers[0]
        await service.wait(lambda: service.supervisor._note_stable(worker) or not worker.failures)
        service.send(signal.SIGTERM)
    words = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert words == [
        "worker 0 was killed by SIGKILL: it is started again until it runs, with pauses of up to 0.002 s",
        "worker 0 runs again",
    ]


async def test_one_that_is_told_to_end_is_replaced(supervise, caplog):
    """A person who ends one worker with SIGTERM gets a new one, immediately, and no error."""
    async with supervise("serve", "serve") as service:
        await service.started.wait()
        os.kill(service.supervisor._workers[1]._process.pid, signal.SIGTERM)
        await service.wait(lambda: len(service.log("1", "start")) == 2)
        service.send(signal.SIGTERM)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("words", "code"),
    [(("code=2", "serve"), 2), (("serve", "code=3"), 3)],
    ids=["the first", "another"],
)
async def test_those_that_cannot_start_end_the_service(supervise, words, code):
    """With the exit code of the worker, which has said why; those that run are ended in order."""
    with pytest.raises(BaseExceptionGroup) as raised:
        async with supervise(*words):
            pass
    assert raised.group_contains(WorkerFailed)
    failure = raised.value.exceptions[0]
    assert isinstance(failure, WorkerFailed)
    assert failure.code == code


async def test_a_signal_during_the_start_ends_it(supervise):
    """Workers that are not ready yet end too."""
    async with supervise("serve", "serve") as service:
        await service.wait(lambda: service.log("0", "start"))
        service.send(signal.SIGTERM)
    assert "stopping" in service.manager.told


async def test_ctrl_c_during_the_start_ends_those_that_are_about_to_be_ready(supervise):
    """A worker that receives signals already takes the first one for a wish to drain: it is told that it is none."""
    async with supervise("serve", "late", drain_seconds=3600.0) as service:
        await service.wait(lambda: service.log("1", "receives"))
        service.send(signal.SIGINT)
        await service.wait(lambda: "stopping" in service.manager.told)
        (service.folder / "ready").touch()
    assert service.log("1", "SIGINT")


async def test_the_end_during_a_pause_starts_no_process(supervise, monkeypatch):
    """The service ends while one that has died waits to be started again."""
    monkeypatch.setattr(supervising, "RESTART_BACKOFF", Backoff(first=3600.0, most=3600.0))
    async with supervise("serve", "crash serve") as service:
        await service.started.wait()
        (service.folder / "crash").touch()
        paused = service.supervisor._workers[1]
        await service.wait(lambda: paused._pausing is not None)
        service.send(signal.SIGTERM)
    assert paused.starts == 1


async def test_one_that_cannot_be_started_says_why():
    """The words of the system are the reason: there is no process that could have said one."""
    config = ServerConfig(bind="127.0.0.1:0", workers=2)
    supervisor = Supervisor(config, ["/no/such/program"], manager=Manager())
    with pytest.raises(WorkerFailed, match=r"worker 0 cannot be started .*No such file") as raised:
        await supervisor.run(lambda place: None)
    assert raised.value.code == 0


async def test_one_that_was_ready_and_cannot_be_started_again_waits(supervise, monkeypatch):
    """While the parent has no descriptor left it pauses, as after any failure; then the worker runs again."""

    def fail():
        raise OSError(24, "Too many open files")

    async with supervise("serve", "crash serve") as service:
        await service.started.wait()
        worker = service.supervisor._workers[1]
        with monkeypatch.context() as patch:
            patch.setattr(trio.socket, "socketpair", fail)
            (service.folder / "crash").touch()
            await service.wait(lambda: worker.failures > 2)
        await service.wait(lambda: service.log("1", "start", "serve"))
        service.send(signal.SIGTERM)


async def test_a_second_signal_hurries(supervise):
    """It reaches the workers as SIGINT, which ends their delay and draining."""
    async with supervise("deaf", "deaf", drain_seconds=3600.0) as service:
        await service.started.wait()
        service.send(signal.SIGTERM)
        await service.wait(lambda: len(service.log("SIGTERM")) == 2)
        service.send(signal.SIGTERM)
    assert sorted(service.log("SIGINT")) == ["0 SIGINT", "1 SIGINT"]


async def test_one_that_does_not_end_is_killed(supervise, monkeypatch, caplog):
    """After the time that it may take; the service then ends with an error."""
    monkeypatch.setattr(supervising, "STOP_GRACE", 1.0)
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012 - raised at the end of the service
        async with supervise("serve", "stubborn") as service:
            await service.started.wait()
            service.send(signal.SIGINT)
    assert raised.group_contains(WorkerFailed, match="worker 1 has not ended in time")
    assert sorted(service.log("SIGINT")) == ["0 SIGINT", "1 SIGINT"]


async def test_one_that_hangs_is_killed_and_started_again(supervise, monkeypatch, caplog):
    """It gives no sign of life any more."""
    monkeypatch.setattr(supervising, "HANG_CHECK_INTERVAL", 0.01)
    async with supervise("serve", "serve") as service:
        await service.started.wait()
        hanging = service.supervisor._workers[1]
        hanging._alive_at -= supervising.HANG_TIMEOUT
        await service.wait(lambda: len(service.log("1", "start")) == 2)
        await service.wait(lambda: hanging.is_ready)
        service.send(signal.SIGTERM)
    assert "worker 1 gives no sign of life, and is killed" in caplog.text


async def test_one_that_is_told_to_end_and_hangs_is_killed_and_started_again(supervise, monkeypatch, caplog):
    """When it had the time to drain, and some more."""
    monkeypatch.setattr(supervising, "HANG_CHECK_INTERVAL", 0.01)
    async with supervise("serve", "stuck serve", drain_seconds=3600.0) as service:
        await service.started.wait()
        hanging = service.supervisor._workers[1]
        os.kill(hanging._process.pid, signal.SIGTERM)
        await service.wait(lambda: hanging._stopping_at)
        hanging._stopping_at -= 3600.0 + supervising.STOP_GRACE
        await service.wait(lambda: len(service.log("1", "start")) == 2)
        service.send(signal.SIGTERM)
    assert "worker 1 was told to end and has not in time, and is killed" in caplog.text


async def test_a_reload_reaches_all(supervise):
    """The service manager is told when all have read their certificates again."""
    async with supervise("serve", "serve") as service:
        await service.started.wait()
        service.send(signal.SIGHUP)
        await service.wait(lambda: len(service.manager.told) == 3)
        assert sorted(service.log("SIGHUP")) == ["0 SIGHUP", "1 SIGHUP"]
        assert service.manager.told == ["ready with 2 workers", "reloading", "ready with 2 workers"]
        service.send(signal.SIGTERM)


async def test_the_store_answers_if_it_answers_all_that_run(supervise):
    """What the service manager is told of; without a worker that runs it is told nothing good."""
    async with supervise("serve", "serve") as service:
        await service.started.wait()
        await service.wait(lambda: service.manager.answers is not None)
        first, second = service.supervisor._workers
        assert await service.manager.answers()
        second.store_answers = False
        assert not await service.manager.answers()
        second.is_ready = False
        assert await service.manager.answers()
        first.is_ready = False
        assert not await service.manager.answers()
        first.is_ready = second.is_ready = True
        service.send(signal.SIGTERM)


async def test_metrics_of_all_reach_the_one_that_asks(supervise, monkeypatch):
    """Each answers for itself; one that has stopped is left out, and its starts are counted all the same."""
    monkeypatch.setattr(supervising, "METRICS_TIMEOUT", 0.5)
    async with supervise("serve", "serve") as service:
        await service.started.wait()
        asking, other = service.supervisor._workers
        await service.supervisor._send_all_metrics(asking)
        await service.wait(lambda: service.log("0", "all"))
        os.kill(other._process.pid, signal.SIGSTOP)
        await service.supervisor._send_all_metrics(asking)
        await service.wait(lambda: len(service.log("0", "all")) == 2)
        os.kill(other._process.pid, signal.SIGCONT)
        service.send(signal.SIGTERM)
    whole, half = service.log("0", "all")
    assert whole == "0 all [('0', b'of 0'), ('1', b'of 1')] [('0', 1), ('1', 1)]"
    assert half == "0 all [('0', b'of 0')] [('0', 1), ('1', 1)]"


async def test_a_port_on_which_another_service_listens_is_refused(supervise):
    """Although processes of one user may share a port: half of the connections would go to the other service."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(BaseExceptionGroup) as raised:
            async with supervise("serve", "serve", bind=bind):
                pass
    assert raised.group_contains(BindError, match="Address already in use")


async def test_workers_end_with_their_parent(tmp_path):
    """Also if it is killed: they notice that the channel has ended."""
    for number in "01":
        (tmp_path / number).write_text("serve")
    program = f"""
import sys, trio
from mdashcore.server.config import ServerConfig
from mdashcore.server.service_manager import ServiceManager
from mdashcore.server.workers.supervisor import Supervisor
command = [sys.executable, {str(PROGRAM)!r}, {str(tmp_path)!r}]
supervisor = Supervisor(ServerConfig(bind="127.0.0.1:0", workers=2), command, manager=ServiceManager())
trio.run(supervisor.run, lambda place: print("started", flush=True))
"""
    process = await trio.lowlevel.open_process([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        with trio.fail_after(PATIENCE):
            assert (await process.stdout.receive_some()).startswith(b"started")
            process.kill()
            while (tmp_path / "log").read_text().count("orphan") < 2:  # noqa: ASYNC110 - of other processes
                await trio.sleep(0.01)
    finally:
        process.kill()
        await process.wait()
