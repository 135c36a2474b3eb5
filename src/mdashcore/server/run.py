"""The whole server: backend, hub, node and gateway on one port, until it is told to stop."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from mdashcore._errors import InvalidInput, StorageError
from mdashcore.hub import Hub
from mdashcore.hub.maintenance.backup import UNFINISHED_IMPORT, is_unfinished
from mdashcore.server.app import App, create_app
from mdashcore.server.config import ServerConfig, User, parse_bind
from mdashcore.server.gateway import Gateway
from mdashcore.server.http.forwarded import Proxies
from mdashcore.server.http.port_listener import PortListener
from mdashcore.server.http.tls import Certificate, TlsListener
from mdashcore.server.listening import BindError, bound, local_place, start_listening
from mdashcore.server.service import Service, ServiceSettings
from mdashcore.server.service_manager import Manager, ServiceManager
from mdashcore.storage import SHARED, Backend, open_backend
from mdashcore.trio.node import NodeSettings, open_node
from mdashcore.trio.stop_signals import has_terminal, open_stop_signals
from mdashcore.trio.together import together

if TYPE_CHECKING:
    from mdashcore.server.metrics.merging import WorkerMetrics
    from mdashcore.server.metrics.registry import Metrics

__all__ = ["BindError", "RunningServer", "open_server", "serve", "tune_interpreter"]

_log = logging.getLogger(__name__)

SWITCH_INTERVAL: Final = 0.0005  # seconds after which Python switches to another thread that waits

MAX_STORE_WRITES: Final = 16  # writes of one request at the same time: a store commits so many as one group


async def _drain_nothing(seconds: float) -> None:
    """Do nothing: without a gateway there are no handshakes, devices and subscribers."""


@attrs.frozen
class RunningServer:
    """A server that accepts connections."""

    service: Service
    host: str
    port: int
    certificate: Certificate | None = None
    """The certificate of the port, if it speaks TLS."""
    metrics_url: str | None = None
    """The address of the metrics, if they have one of their own."""
    drain: Callable[[float], Awaitable[None]] = attrs.field(default=_drain_nothing, kw_only=True)
    """Refuses handshakes from now on, and has all devices and subscribers connect again, spread over the seconds."""

    @property
    def tls(self) -> bool:
        """Whether the port speaks TLS."""
        return self.certificate is not None

    @property
    def url(self) -> str:
        """The address for people: ``http://127.0.0.1:8080``."""
        return f"http{'s' if self.tls else ''}://{self._place}"

    @property
    def device_url(self) -> str:
        """The address for devices."""
        return f"ws{'s' if self.tls else ''}://{self._place}/api/v2/rpc"

    @property
    def _place(self) -> str:
        """The address and the root path."""
        return f"{local_place(self.host, self.port)}{self.service.settings.root_path}"


def _metrics_url(config: ServerConfig, sockets: Sequence[trio.socket.SocketType]) -> str | None:
    if config.metrics_bind is None:
        return None
    host, _ = parse_bind(config.metrics_bind)
    return f"http://{local_place(host, sockets[0].getsockname()[1])}/metrics"


@asynccontextmanager
async def open_server(
    config: ServerConfig,
    *,
    settings: ServiceSettings | None = None,
    node_settings: NodeSettings | None = None,
    reset_passwords: Sequence[User] = (),
    worker_metrics: WorkerMetrics | None = None,
) -> AsyncIterator[RunningServer]:
    """Run a server as long as the context lasts. Leaving the context ends the server within five seconds.

    Args:
        settings: the default is made from the configuration.
        node_settings: the default is made from the configuration.
        reset_passwords: accounts that get another password, after the accounts of the configuration were created.
        worker_metrics: the way to the metrics of the other processes, if several serve the port (`workers`).

    Raises:
        InvalidInput: the configuration cannot be used.
        NotFound: an account whose password is to be reset does not exist.
        BindError: the address cannot be bound.
        StorageError: the storage cannot be opened.
    """
    certificate = _certificate(config)
    settings = settings or _settings(config)
    Proxies(settings.trusted_proxies, settings.forwarded_header)  # raises before anything is opened
    stop = trio.Event()
    is_shared = config.workers > 1
    async with (
        bound(config.bind, shared=is_shared) as sockets,
        bound(config.metrics_bind, "--metrics-bind", shared=is_shared) as metrics_sockets,
        open_backend(config.store) as backend,
    ):
        _check_shared(config, backend)
        if await is_unfinished(backend):
            raise StorageError(UNFINISHED_IMPORT)
        metrics = _metrics(config, worker_metrics)
        hub = Hub(
            backend if metrics is None else metrics.measure(backend),
            now=time.time,
            monotonic=time.monotonic,
            entropy=os.urandom,
            limits=config.limits,
            free_disk=config.limits.free_disk,
            keep_log_seconds=config.notification_retention_days * 86_400,
            together=partial(together, MAX_STORE_WRITES),
        )
        defaults = NodeSettings(max_answer=config.max_answer, delta_limits=config.delta_limits)
        async with open_node(hub, settings=node_settings or defaults) as node:
            service = Service(node, settings)
            await _make_users(service, config.users)
            for user in reset_passwords:
                await service.reset_password(user.name, user.password)
            app = create_app(service, in_front=lambda app: _in_front(app, metrics, config))
            gateway = Gateway(service, app)
            start_listening([*sockets, *metrics_sockets])
            port = sockets[0].getsockname()[1]
            metrics_url = _metrics_url(config, metrics_sockets)
            plain = [PortListener(sock) for sock in sockets]
            listeners: list[trio.abc.Listener[Any]] = [*plain]
            if certificate is not None:
                listeners = [TlsListener(listener, certificate) for listener in plain]
            host, _ = parse_bind(config.bind)
            running = RunningServer(
                service,
                host,
                port,
                certificate,
                metrics_url,
                drain=gateway.drain,
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(_start_gateway, gateway, listeners, stop)
                if metrics_sockets and metrics is not None:
                    watched = metrics.app(config.metrics_token, app, only_probes_of_app=True)
                    beside = Gateway(service, watched, only_app=True, beside=gateway)
                    ports = [PortListener(sock) for sock in metrics_sockets]
                    await nursery.start(_start_gateway, beside, ports, stop)
                try:
                    with nullcontext() if metrics is None else metrics.watching(service, lambda: gateway.connections):
                        yield running
                finally:
                    service.health.drain()
                    stop.set()


def _check_shared(config: ServerConfig, backend: Backend) -> None:
    if config.workers > 1 and SHARED not in backend.capabilities:
        scheme = config.store.partition("://")[0]
        words = f"{config.workers} workers need a store that they can share, such as redis://HOST/0"
        raise InvalidInput(f"{words}; {scheme}:// belongs to one process")


async def _make_users(service: Service, users: Sequence[User]) -> None:
    accounts = service.hub.accounts
    has_others: bool | None = None
    for user in users:
        try:
            if has_others is None and await accounts.get(user.name) is None:
                has_others = bool(await accounts.all())
            if await service.ensure_user(user.name, user.password, admin=user.admin) and has_others:
                _log.warning(
                    "the user %r of the configuration was missing, and is made; if that user was removed, "
                    "take the name out of the configuration too",
                    user.name,
                )
        except StorageError as exc:  # a full disk must not stop the devices, which do not need the user
            _log.error("the user %r could not be made: %s", user.name, exc)


def _settings(config: ServerConfig) -> ServiceSettings:
    names = (
        "max_image",
        "max_bodies",
        "max_connections",
        "trusted_proxies",
        "forwarded_header",
        "root_path",
        "hsts_max_age",
        "workers",
    )
    return ServiceSettings(**{name: getattr(config, name) for name in names})


async def _start_gateway(
    gateway: Gateway,
    listeners: list[trio.abc.Listener[Any]],
    stop: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.CancelScope(shield=True):  # `stop` ends the server in order, and within a time of its own
        await gateway.serve(listeners, stop=stop, task_status=task_status)


async def serve(
    config: ServerConfig,
    *,
    on_start: Callable[[RunningServer], Awaitable[object]] | None = None,
    reset_passwords: Sequence[User] = (),
    manager: Manager | None = None,
    hurried_by: Collection[int] = (signal.SIGTERM, signal.SIGINT),
    worker_metrics: WorkerMetrics | None = None,
) -> None:
    """Run until SIGTERM or SIGINT (unless the process was started with SIGINT ignored). Raises as `open_server`.

    After SIGTERM the server goes on for `ServerConfig.shutdown_delay` and reports itself as not ready. Then it has its
    devices connect again, spread over `ServerConfig.drain_seconds`. Another signal ends both. SIGHUP reloads the
    certificate. A SIGHUP that comes because the terminal was closed stops the server.

    Args:
        on_start: runs beside the server as soon as it accepts connections. It is cancelled first when the server stops.
        reset_passwords: as for `open_server`.
        manager: is told when the server accepts connections, reloads and stops, and that it is alive.
        hurried_by: the signals that end the delay and the draining.
        worker_metrics: as for `open_server`.
    """
    manager = manager or ServiceManager()
    had_terminal = has_terminal()
    with open_stop_signals() as signals, trio.open_signal_receiver(signal.SIGHUP) as hangups:
        opened = open_server(config, reset_passwords=reset_passwords, worker_metrics=worker_metrics)
        async with opened as server, trio.open_nursery() as nursery:

            async def reload() -> None:
                async for _ in hangups:
                    if had_terminal and not has_terminal():
                        _log.info("the terminal was closed: going down")
                        nursery.cancel_scope.cancel()
                        return
                    manager.notify_reloading()
                    _reload(server.certificate)
                    manager.notify_ready(server.url, server.metrics_url)

            nursery.start_soon(reload)
            nursery.start_soon(manager.keep_alive, server.service.health.store_answers)
            tune_interpreter()
            manager.notify_ready(server.url, server.metrics_url)
            if on_start is not None:
                nursery.start_soon(on_start, server)
            try:
                number = await anext(signals)
                _log.info("%s: going down", signal.Signals(number).name)
            finally:
                manager.notify_stopping()
            if number == signal.SIGTERM:
                await _wind_down(server, config, signals, hurried_by)
            nursery.cancel_scope.cancel()


async def _wind_down(
    server: RunningServer, config: ServerConfig, signals: AsyncIterator[int], hurried_by: Collection[int]
) -> None:
    """Go on for the delay, then drain. Another signal ends both."""
    async with trio.open_nursery() as nursery:

        async def hurry() -> None:
            async for number in signals:
                if number in hurried_by:
                    nursery.cancel_scope.cancel()

        nursery.start_soon(hurry)
        server.service.health.drain()
        if config.shutdown_delay:
            _log.info("/readyz is 503; all else goes on for %g s, or until another signal", config.shutdown_delay)
            await trio.sleep(config.shutdown_delay)
        if config.drain_seconds:
            words = "devices are told to connect again, spread over %g s; another signal ends this"
            _log.info(words, config.drain_seconds)
            await server.drain(config.drain_seconds)
        nursery.cancel_scope.cancel()


def _reload(certificate: Certificate | None) -> None:
    if certificate is None:
        _log.info("SIGHUP: there is no certificate to be read anew")
        return
    try:
        certificate.reload()
    except InvalidInput as exc:
        _log.error("SIGHUP: the old certificate stays in use: %s", exc)
    else:
        _log.info("SIGHUP: new connections get the certificate that is there now")


def tune_interpreter() -> None:
    """Tune garbage collection and thread switching of Python for a server with many connections.

    Almost no object here is cyclic garbage, but every connection makes objects that live long. When 10 000 devices
    reconnected, the collector took a third to a half of the time, because it visited all of them again and again.

    A store on a disk works in threads. A commit releases the interpreter a dozen times. Each time its thread waited the
    default 5 ms while the loop was busy: the requests of one account delayed calls of another account to 300 ms.
    """
    gc.collect()
    gc.freeze()
    # allocations minus deallocations; the last two count rounds of the younger generation
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(SWITCH_INTERVAL)


def _certificate(config: ServerConfig) -> Certificate | None:
    if config.certfile is None:
        if config.keyfile is not None:
            raise InvalidInput("a keyfile is of no use without a certfile")
        return None
    return Certificate(config.certfile, config.keyfile)


def _metrics(config: ServerConfig, worker_metrics: WorkerMetrics | None) -> Metrics | None:
    """Return the metrics of a server, if they are configured."""
    if config.metrics_token is None and config.metrics_bind is None:
        return None
    from mdashcore.server.metrics.registry import Metrics  # imported here, because most servers do not need its library

    return Metrics(worker_metrics)


def _in_front(app: App, metrics: Metrics | None, config: ServerConfig) -> App:
    """Return an app that also answers with metrics, unless they have an address of their own."""
    return app if metrics is None or config.metrics_bind is not None else metrics.app(config.metrics_token, app)
