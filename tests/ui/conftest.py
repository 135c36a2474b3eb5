"""A person in front of a browser: real Chromium, a real server in its own process, virtual devices on real sockets.

What a page throws, says on its console as an error, or asks for against its Content-Security-Policy fails the test.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from forked import CHEAP_MDASH, Forked
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)
from websockets.sync.client import connect

from mdashcore import firmware
from mdashcore._errors import RpcError
from mdashcore.trio.agent import Agent
from mdashcore.virtual_device import FirmwareBuild, VirtualDevice
from mdashcore.virtual_device.connect import run_virtual_device

ROOT = Path(__file__).parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None
)

PASSWORD = "correct horse"

PATIENCE = 25_000  # ms that a page has for what a test waits for: far above what it takes on a busy machine

IS_LIVE = """async () => {
  const {connectionState, onState} = await import(ui("live.js"));
  if (connectionState() !== "live") await new Promise((done) => onState((state) => state === "live" && done()));
}"""
"""Ends once the page has its notification socket, and has read its devices."""

SWITCHES = [
    "--no-sandbox",  # tests may run as root
    "--in-process-gpu",  # there is none: what draws in its place needs no process of its own
]

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}

NOISE = re.compile(r"Failed to load resource|WebSocket connection to .* failed|WebSocket is closed before")
"""What Chromium itself writes for answers with an error status and for connections that break: no fault of a page."""

WATCH = """
globalThis.ui = (name) => new URL(name, document.querySelector("script[type=module]").src).href;
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""


def needs(there: object, what: str) -> None:
    """Skip without what has to be installed; with CI=true that is a failure."""
    if not there:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is not installed: see tests/run")


# The server


@attrs.frozen
class Server:
    """A running ``mdash serve``, with an admin called "root"."""

    url: str
    process: Forked

    def client(self, name: str, password: str = PASSWORD) -> httpx.Client:
        """A client of the REST API."""
        # TLS, which is not spoken here, takes longer to set up than all that a test does with a client.
        return httpx.Client(base_url=f"{self.url}/api/v2", auth=(name, password), timeout=20, verify=False)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One for all tests: each has an account of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MDASH_")}
    command = ["serve", "--bind", "127.0.0.1:0", "--store", "memory://"]
    command += ["--register-admin", f"root:{PASSWORD}", "--log-level", "warning"]
    output, its_output = os.pipe()
    process = Forked(*CHEAP_MDASH, *command, stdout=its_output, env=environment)
    os.close(its_output)
    with os.fdopen(output) as lines:
        said = lines.readline()
        found = re.search(r"http://[\d.]+:\d+", said)
        assert found, f"the server does not start: {said}"
        yield Server(found[0], process)
        process.send_signal(signal.SIGTERM)
        process.wait()


# People and devices


@attrs.frozen
class Person:
    """An account, and a REST client for what a test has to prepare or to look up."""

    name: str
    password: str
    http: httpx.Client
    server: Server

    def register(self, id: str, name: str | None = None) -> str:
        """Register a device; its token."""
        response = self.http.post("/devices", json={"id": id, **({"name": name} if name else {})})
        assert response.status_code == 201, response.text
        return str(response.json()["token"])


@pytest.fixture(scope="session")
def root(server: Server) -> Iterator[httpx.Client]:
    """The admin's client, with which accounts are made."""
    with server.client("root") as client:
        yield client


@pytest.fixture
def make_person(server: Server, root: httpx.Client) -> Iterator[Callable[..., Person]]:
    """Makes accounts: ``make_person()``, ``make_person(admin=True)``."""
    clients = []

    def make(name: str | None = None, *, admin: bool = False) -> Person:
        name = name or f"user{secrets.token_hex(4)}"
        answer = root.post("/users", json={"name": name, "password": PASSWORD, "admin": admin})
        assert answer.status_code == 201, answer.text
        clients.append(server.client(name))
        return Person(name, PASSWORD, clients[-1], server)

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def person(make_person: Callable[..., Person]) -> Person:
    """An account of this test alone."""
    return make_person()


@attrs.frozen
class Connected:
    """A virtual device that runs."""

    device: VirtualDevice | None
    token: str
    running: Future[Any]

    def stop(self) -> None:
        """Take it off the network, as a power cut would."""
        self.running.cancel()
        try:
            self.running.result(timeout=PATIENCE / 1000)
        except CancelledError:
            pass


class Fleet:
    """Virtual devices of a person, each on a socket of its own."""

    def __init__(self, portal: BlockingPortal, folder: Path, person: Person) -> None:
        self._portal = portal
        self._folder = folder
        self._person = person
        self._running: list[Connected] = []

    def connect(self, id: str, *, name: str | None = None, token: str | None = None, **options: Any) -> Connected:
        """Register a device (unless there is a `token`) and have it online.

        Args:
            options: of `VirtualDevice`.
        """
        token = token or self._person.register(id, name)
        options.setdefault("build", FirmwareBuild(app=id))
        device = self._portal.call(partial(VirtualDevice, id, self._folder / id, **options))
        url = f"ws{self._person.server.url.removeprefix('http')}/api/v2/rpc"
        running, _ = self._portal.start_task(partial(run_virtual_device, device, url, token, name=id))
        connected = Connected(device, token, running)
        self._running.append(connected)
        return connected

    def pretend(self, id: str, answers: Mapping[str, Any], *, name: str | None = None, reported: Any = None) -> None:
        """Register a device that answers calls as `answers` says, whatever a real one would, and have it online.

        Args:
            answers: by method: the result, or a function, async or not, that makes it of the parameters.
            reported: what it reports when it connects.
        """
        token = self._person.register(id, name)
        url = f"ws{self._person.server.url.removeprefix('http')}/api/v2/rpc"
        hello = [] if reported is None else [("Dash.Shadow.Update", {"state": {"reported": reported}})]

        async def handle(method: str, params: Any) -> Any:
            if method not in answers:
                raise RpcError(404, f"No handler for {method}")
            answer = answers[method]
            found = answer(params) if callable(answer) else answer
            return await found if isinstance(found, Awaitable) else found

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            agent = Agent(url, token, handle, hello=lambda: hello)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(agent.run)
                await agent.wait_connected()
                task_status.started()

        running, _ = self._portal.start_task(run)
        self._running.append(Connected(None, token, running))

    def stop(self) -> None:
        """Take all off the network."""
        for connected in self._running:
            if not connected.running.done():
                connected.stop()


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """Where Trio runs, beside the tests."""
    with start_blocking_portal("trio") as portal:
        yield portal


@pytest.fixture
def fleet(portal: BlockingPortal, tmp_path: Path, person: Person) -> Iterator[Fleet]:
    """Virtual devices of `person`: ``fleet.connect("lamp")``."""
    fleet = Fleet(portal, tmp_path / "devices", person)
    yield fleet
    fleet.stop()


def firmware_zip(**fields: Any) -> bytes:
    """A firmware for a virtual device: ``firmware_zip(version="2.0")``. `parts` are the contents of its parts."""
    file = io.BytesIO()
    parts = fields.pop("parts", {"app": bytes(20_000)})
    manifest = {"name": "lamp", "platform": "esp32", "version": "2.0", "build_id": "20260301-100000/new", **fields}
    firmware.write_image(file, manifest, parts)
    return file.getvalue()


@pytest.fixture
def make_firmware() -> Callable[..., bytes]:
    """Makes firmware zips: ``make_firmware(version="2.0", platform="esp32")``."""
    return firmware_zip


@pytest.fixture
def install(person: Person) -> Callable[..., None]:
    """Updates a device, and waits until the new firmware runs on trial: ``install("lamp", version="2.0")``."""

    def run(id: str, *, query: Mapping[str, Any] | None = None, **fields: Any) -> None:
        with connect(
            f"ws{person.server.url.removeprefix('http')}/api/v2/notify",
            additional_headers={"Authorization": _basic(person)},
        ) as stream:
            image = firmware_zip(**{"name": id, **fields})
            answer = person.http.post(f"/devices/{id}/ota", params=query, files={"file": ("fw.zip", image)})
            assert answer.status_code == 200, answer.text
            while json.loads(stream.recv(timeout=20))["name"] != "ota.UNCOMMITTED":
                pass

    return run


def _basic(person: Person) -> str:
    return f"Basic {base64.b64encode(f'{person.name}:{person.password}'.encode()).decode()}"


class Cable:
    """What lies between a browser and the server: it can be cut, and mended.

    ``open_page(person, cable=cable)`` goes through it.
    """

    def __init__(self, portal: BlockingPortal, server: Server) -> None:
        self._portal = portal
        self._target = int(server.url.rpartition(":")[2])
        self._streams: set[trio.SocketStream] = set()
        self._sockets: set[trio.SocketStream] = set()
        self._hung: set[trio.SocketStream] = set()
        self._whole = True
        self.drops_upgrade = False
        """Whether it is as a proxy that does not pass on the header ``Upgrade``."""
        self._running, port = portal.start_task(self._run)
        self.url = f"http://127.0.0.1:{port}"

    def cut(self) -> None:
        """Break every connection, and let none through."""
        self._whole = False
        self._portal.call(self._break, self._streams)

    def mend(self) -> None:
        """Let connections through again."""
        self._whole = True

    def hang(self) -> None:
        """Let the open notification sockets die without a word: nothing comes through them, and neither end notices."""
        self._portal.call(self._hung.update, self._sockets)

    def remove(self) -> None:
        """End it."""
        self._running.cancel()

    async def _run(self, *, task_status: trio.TaskStatus[int]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self._pass_on, listeners)

    async def _pass_on(self, client: trio.SocketStream) -> None:
        if not self._whole:
            await trio.aclose_forcefully(client)
            return
        async with await trio.open_tcp_stream("127.0.0.1", self._target) as server, trio.open_nursery() as nursery:
            self._streams |= {client, server}
            if not self._whole:  # cut in that moment
                await self._break({client, server})
            for source, target in ((client, server), (server, client)):
                nursery.start_soon(self._pump, source, target, nursery.cancel_scope)
        self._streams -= {client, server}
        await trio.aclose_forcefully(client)

    async def _pump(self, source: trio.SocketStream, target: trio.SocketStream, both: trio.CancelScope) -> None:
        try:
            async for data in source:
                if data.startswith(b"GET /api/v2/notify"):
                    self._sockets |= {source, target}
                if self.drops_upgrade:
                    data = data.replace(b"\r\nUpgrade: websocket", b"")
                if source not in self._hung:
                    await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        both.cancel()

    async def _break(self, streams: set[trio.SocketStream]) -> None:
        for stream in tuple(streams):
            await trio.aclose_forcefully(stream)


@pytest.fixture
def cable(portal: BlockingPortal, server: Server) -> Iterator[Cable]:
    """A connection that a test can cut."""
    cable = Cable(portal, server)
    yield cable
    cable.remove()


# The browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    needs(CHROMIUM, "chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def problems() -> Iterator[list[str]]:
    """What pages complain of. A test that means a complaint takes it out."""
    found: list[str] = []
    yield found
    assert not found, "\n".join(found)


@contextmanager
def watched(page: Page, problems: list[str]) -> Iterator[None]:
    """Gather what a page complains of while the context lasts."""

    def thrown(error: Error) -> None:
        problems.append(f"thrown: {error}")

    def complain(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not NOISE.search(message.text):
            problems.append(f"{message.type}: {message.text}")

    page.on("pageerror", thrown)
    page.on("console", complain)
    yield
    page.remove_listener("pageerror", thrown)
    page.remove_listener("console", complain)


@pytest.fixture(scope="session")
def shared_page(browser: Browser, server: Server) -> Iterator[Page]:
    """What `workbench` is made of."""
    context = new_context(browser, server.url)
    page = context.new_page()
    page.goto("/#/login")
    expect(page.get_by_role("main").locator("h1")).to_be_visible()
    yield page
    context.close()


@pytest.fixture
def workbench(shared_page: Page, problems: list[str]) -> Iterator[Page]:
    """A page without a login, for tests of the modules that views are made of, which share it."""
    with watched(shared_page, problems):
        yield shared_page


class KeptPages:
    """Pages that many tests use one after the other: to load one anew is half the work of a new browser's first load.

    Each has cookies and a storage of its own. Nothing is left of a test but the files that the browser has cached: its
    cookies, its storage, its document, its routes and its listeners are gone.
    """

    FORGET = "() => { localStorage.clear(); sessionStorage.clear(); }"

    def __init__(self, browser: Browser, server: Server) -> None:
        self._browser = browser
        self._server = server
        self._free: list[Page] = []

    @contextmanager
    def lent(self, viewport: Any) -> Iterator[Page]:
        """One of them, for a test."""
        page = self._free.pop() if self._free else new_context(self._browser, self._server.url).new_page()
        listening: list[tuple[Any, Any]] = []

        def listen(event: Any, listener: Any) -> None:
            listening.append((event, listener))
            Page.on(page, event, listener)

        page.on = listen  # type: ignore[method-assign]
        page.route_web_socket = page.add_init_script = _stays  # type: ignore[method-assign,assignment]
        page.context.clear_cookies()
        page.set_viewport_size(viewport)
        yield page
        del page.on, page.route_web_socket, page.add_init_script
        for event, listener in listening:
            with suppress(KeyError):  # the test has removed it
                page.remove_listener(event, listener)
        page.unroute_all(behavior="ignoreErrors")
        for other in page.context.pages:
            if other is not page:
                other.close()
        try:  # its document ends now: it would load itself again when another test logs in
            if page.url.startswith(self._server.url):
                page.evaluate(self.FORGET)
            page.goto("/ui/icon.svg")  # of the same server: the process and what it has compiled stay
            page.emulate_media(color_scheme="light", forced_colors="none")
            page.mouse.move(0, 0)
        except Error:  # the test has closed it, or it was just loading itself again
            page.context.close()
        else:
            self._free.append(page)


def _stays(*_: Any, **__: Any) -> None:
    """In place of what cannot be taken back."""
    raise AssertionError("this stays with the page: open one with fresh=True")


def new_context(browser: Browser, url: str, **options: Any) -> BrowserContext:
    """A browser of its own."""
    options = {"viewport": DESKTOP, "locale": "en-GB", "reduced_motion": "reduce", **options}
    context = browser.new_context(base_url=url, **options)
    context.set_default_timeout(PATIENCE)
    context.add_init_script(WATCH)
    return context


@pytest.fixture(scope="session")
def kept_pages(browser: Browser, server: Server) -> KeptPages:
    """What `open_page` gives."""
    return KeptPages(browser, server)


@pytest.fixture
def open_page(
    browser: Browser, server: Server, problems: list[str], kept_pages: KeptPages
) -> Iterator[Callable[..., Page]]:
    """Opens pages, each in a browser of its own: ``open_page(person, "#/devices", viewport=…)``.

    What was used before is used again, but not where there are other options, a `cable`, or changes that stay: with
    ``fresh=True``.
    """
    opened = ExitStack()

    def open_(
        person: Person | None = None,
        route: str = "#/devices",
        *,
        fresh: bool = False,
        cable: Cable | None = None,
        viewport: Any = DESKTOP,
        **options: Any,
    ) -> Page:
        if not (fresh or cable or options):
            page = opened.enter_context(kept_pages.lent(viewport))
        else:
            context = new_context(browser, (cable or server).url, viewport=viewport, **options)
            opened.callback(context.close)
            page = context.new_page()
        if person is not None:
            body = {"user": person.name, "password": person.password}
            assert page.context.request.post("/api/v2/login", data=body).ok
        opened.enter_context(watched(page, problems))
        page.goto(f"/{route}")
        expect(page.get_by_role("main").locator("h1")).to_be_visible()
        if person is not None and not (cable and cable.drops_upgrade):
            page.evaluate(IS_LIVE)
        return page

    with opened:
        yield open_


@pytest.fixture
def page(open_page: Callable[..., Page], person: Person) -> Page:
    """A page on which `person` is logged in, on the devices."""
    return open_page(person)


@pytest.fixture
def tweak() -> Callable[..., None]:
    """Loads a page anew with other constants in a module: ``tweak(page, "live.js", CHECK_INTERVAL=1000)``.

    With ``load=False`` it is left to the next one. The page is live afterwards.
    """

    def change(page: Page, module: str, *, load: bool = True, **constants: int) -> None:
        def serve(route: Route) -> None:
            answer = route.fetch()
            text = answer.text()
            for name, value in constants.items():
                text, found = re.subn(rf"const {name} = [\d_]+;", f"const {name} = {value};", text)
                assert found == 1, name
            kept = {name: value for name, value in answer.headers.items() if name not in ("etag", "cache-control")}
            route.fulfill(
                response=answer, body=text, headers={**kept, "cache-control": "no-store"}
            )  # for no other test

        page.route(f"**/ui/*/{module}", serve)
        if load:
            page.reload()
            page.evaluate(IS_LIVE)

    return change


def wait_until(page: Page, condition: Callable[[], object]) -> None:
    """Hear what the browser says, until a condition of the test's own is true.

    `page.wait_for_function` cannot look twice: the policy of the pages forbids what it does for that.
    """
    deadline = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        page.wait_for_timeout(5)


@attrs.frozen
class Held:
    """Requests of a page that are held back, the oldest first."""

    page: Page
    routes: list[Route]

    def take(self) -> Route:
        """The oldest of them, which may be still on its way."""
        wait_until(self.page, lambda: self.routes)
        return self.routes.pop(0)


@pytest.fixture
def hold() -> Callable[..., Held]:
    """Holds requests back: ``held = hold(page, "**/devices", "POST")``; ``held.take().continue_()`` lets one go."""

    def begin(page: Page, pattern: str, method: str | None = None) -> Held:
        held = Held(page, [])

        def keep(route: Route) -> None:
            if method in (None, route.request.method):
                held.routes.append(route)
            else:
                route.fallback()

        page.route(pattern, keep)
        return held

    return begin


@pytest.fixture
def is_live() -> Callable[[Page], None]:
    """Waits until a page that was loaded anew has its notification socket, and has read its devices."""
    return lambda page: page.evaluate(IS_LIVE)


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[[Page, Callable[[], object]], None]:
    """Waits for a condition of the test's own: ``wait_until(page, lambda: heard)``."""
    return wait_until


@pytest.fixture
def keep() -> Callable[[Locator], Callable[[], None]]:
    """Remembers an element that a person may be about to press: ``check = keep(button)``; later ``check()``.

    The check fails if another element has taken its place, where a press or the focus would have been lost.
    """

    def begin(place: Locator) -> Callable[[], None]:
        kept = place.element_handle()

        def check() -> None:
            assert place.evaluate("(element, kept) => element === kept", kept), "it was drawn anew"

        return check

    return begin


@pytest.fixture
def scroll() -> Callable[[Page, int], None]:
    """Scrolls a stream of notifications to so many pixels: ``scroll(page, 0)``. The page has noticed it afterwards."""

    def to(page: Page, top: int) -> None:
        page.evaluate(
            """(top) => new Promise((noticed) => {
                document.querySelector(".stream").scrollTo(0, top);
                requestAnimationFrame(noticed);  // comes after the events of scrolling, in the same frame
            })""",
            top,
        )

    return to


@pytest.fixture
def axe() -> Callable[[Page], None]:
    """Checks a page by all rules of axe-core: ``axe(page)``; of a page with a dialog that, as the rest is inert."""
    needs(AXE.exists(), "the npm package axe-core")

    def check(page: Page) -> None:
        # By the debugger's protocol, which is not subject to the page's policy.
        session = page.context.new_cdp_session(page)
        there = session.send("Runtime.evaluate", {"expression": "typeof axe"})
        if there["result"]["value"] == "undefined":
            session.send("Runtime.evaluate", {"expression": AXE.read_text()})
        answer = session.send(
            "Runtime.evaluate",
            {
                "expression": "axe.run(document.querySelector('dialog[open]') ?? document, "
                "{resultTypes: ['violations']})"
                ".then(({violations}) => violations.map(({id, help, nodes}) => "
                "`${id}: ${help}\\n  ` + nodes.map(({html, failureSummary}) => html.slice(0, 200) + ' ' "
                "+ failureSummary).join('\\n  ')))",
                "awaitPromise": True,
                "returnByValue": True,
            },
        )
        session.detach()
        assert "exceptionDetails" not in answer, answer
        assert not answer["result"]["value"], "\n".join(answer["result"]["value"])

    return check


LOOKS: Mapping[str, Mapping[str, Any]] = {
    "dark": {"color_scheme": "dark"},
    "the system's own colours": {"color_scheme": "light", "forced_colors": "active"},
    "on a phone": {"forced_colors": "none", "viewport": PHONE},
}


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.proof)], ids=["a phone", "every"])
def in_every_look(request: pytest.FixtureRequest, axe: Callable[[Page], None]) -> Callable[[Page], None]:
    """Checks a page in each of its looks; nothing is wider than the screen: ``in_every_look(page)``.

    Where time is short, dark on a phone stands for all of them.
    """
    looks = LOOKS if request.param else {"dark on a phone": {**LOOKS["dark"], **LOOKS["on a phone"]}}

    def check(page: Page) -> None:
        for name, look in looks.items():
            media = dict(look)
            page.set_viewport_size(media.pop("viewport", DESKTOP))
            page.emulate_media(**media)
            axe(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            dialog = page.locator("dialog[open]")
            assert not dialog.count() or dialog.evaluate("(dialog) => dialog.scrollWidth <= dialog.clientWidth"), name
        page.set_viewport_size(DESKTOP)

    return check
