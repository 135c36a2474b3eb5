"""Documentation as tests: pages, their marked blocks, and the real processes that they talk of.

A block that is executed has a comment before it that no reader sees::

    <!-- test: curl 404 -->
    ```sh
    curl …
    ```

Every `sh` block has one; ``none`` says that it is not executed.
"""

from __future__ import annotations

import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
from children import default_signals
from ports import free_port
from warm import warm_programs

from mdashcore.cli import main

ROOT = Path(__file__).parents[2]
PATIENCE = 40.0  # seconds for what a process is expected to say: far above what it takes on a busy machine
ADDRESS = "127.0.0.1:8080"  # where the pages say that the server is


@attrs.frozen
class Block:
    """A fenced block with its mark."""

    mark: str
    language: str
    code: str
    after: str
    """What follows it on the page, to be searched for the answer that belongs to it."""


@attrs.frozen
class Page:
    """A page of the documentation."""

    path: Path
    text: str

    def blocks(self, mark: str | None = None) -> list[Block]:
        """Those that have this mark, or begin with it; all marked ones without an argument."""
        pattern = re.compile(r"^<!-- test: ([^\n]*?) -->\n```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
        found = [Block(m[1], m[2], m[3], self.text[m.end() :]) for m in pattern.finditer(self.text)]
        return [block for block in found if mark is None or f"{block.mark} ".startswith(f"{mark} ")]

    def code(self, mark: str) -> str:
        """Of the only block with this mark."""
        (block,) = self.blocks(mark)
        return block.code

    def section(self, heading: str) -> str:
        """What stands under a heading, to the next of its level."""
        level = heading.split(" ")[0]
        return re.split(rf"^#{{1,{len(level)}}} ", self.text.split(f"\n{heading}\n", 1)[1], flags=re.MULTILINE)[0]


class Process:
    """A running process whose output is looked at line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for what matches, in all that it has said so far."""
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.said, re.MULTILINE)) is None:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"never said {pattern!r}, but:\n{self.said}"
            self.said += line
        return found

    def forget(self) -> None:
        """Expect only what it says from now on."""
        self.said = ""

    def interrupt(self) -> int:
        """Ctrl-C; its exit code."""
        os.killpg(self._process.pid, signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        """Close its output once all processes of the command have: the thread that reads it must have ended before."""
        assert self._process.stdout is not None
        self._reader.join(PATIENCE)
        if self._reader.is_alive():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._reader.join()
        self._process.stdout.close()


Start = Callable[..., Process]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def page() -> Callable[[str], Page]:
    """Reads a page by its path in the project."""
    return lambda path: Page(ROOT / path, (ROOT / path).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def pages(page: Callable[[str], Page]) -> list[Page]:
    """All of them."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    return [page(str(path.relative_to(ROOT))) for path in sorted(paths)]


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH with this environment's `mdash` and `python3`, and a `curl` that also prints the status."""
    folder = tmp_path_factory.mktemp("bin")
    curl = shutil.which("curl")
    assert curl, "the documentation's commands need curl"
    (folder / "curl").write_text(f'#!/bin/sh\nexec "{curl}" --no-progress-meter -w "\\n%{{http_code}}\\n" "$@"\n')
    (folder / "curl").chmod(0o755)
    with warm_programs(folder):
        yield folder


@pytest.fixture(scope="session")
def environment(commands: Path) -> dict[str, str]:
    """The environment of a reader's terminal."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MDASH_")}
    python_path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    kept |= dict.fromkeys(
        ["MDASH_STORE", "MDASH_DEMO_STORE"], "memory://"
    )  # nothing stays in the folder where the tests run
    return {**kept, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": python_path}


@pytest.fixture(scope="session")
def start(environment: dict[str, str], commands: Path) -> Callable[..., object]:
    """Starts a command, or a Python program given as text; a context that gives the `Process`."""

    @contextmanager
    def started(
        command: str, *, python: bool = False, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Iterator[Process]:
        arguments = [commands / "python3", "-W", "error", "-c", command] if python else ["bash", "-c", command]
        with default_signals():
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**environment, **(env or {})},
                cwd=cwd,
                start_new_session=True,  # so that what the command starts can be ended with it
            )
        running = Process(process)
        try:
            yield running
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            running.close()

    return started


@pytest.fixture(scope="session")
def run(environment: dict[str, str]) -> Run:
    """Runs lines of shell as a reader would paste them, stopping at the first that fails."""

    def ran(code: str, *, env: Mapping[str, str] | None = None, cwd: Path | None = None, status: int = 0):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**environment, **(env or {})},
            cwd=cwd,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, f"exit code {done.returncode} of\n{code}\n{done.stdout}{done.stderr}"
        return done

    return ran


@pytest.fixture
def mdash(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a line of `mdash` in this process, which saves the start of an interpreter; what it wrote to stdout."""

    def ran(line: str, *, env: Mapping[str, str], status: int = 0) -> str:
        program, *arguments = shlex.split(line)
        assert program == "mdash"
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        code = main(arguments)
        said = capfd.readouterr()
        assert code == status, f"exit code {code} of {line}\n{said.out}{said.err}"
        return said.out

    return ran


@pytest.fixture
def free_address() -> str:
    """An address without a listener."""
    return f"127.0.0.1:{free_port()}"


@attrs.frozen
class Demo:
    """A demo that runs."""

    address: str
    key: str
    password: str
    firmware: Path
    """A firmware zip for the demo's devices."""

    def here(self, code: str) -> str:
        """Code of a page, with this demo's address."""
        return code.replace(ADDRESS, self.address)

    @property
    def header(self) -> dict[str, str]:
        """Of a request that uses its key."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def variables(self) -> dict[str, str]:
        """What the pages have a reader export."""
        url = f"http://{self.address}"
        return {
            "URL": f"{url}/api/v2",
            "MDASH_PASSWORD": self.password,
            "MDASH_KEY": self.key,
            "MDASH_SERVER": url,
        }


def what_it_says(process: Process) -> Demo:
    """The demo of its welcome."""
    process.expect("Ctrl-C ends it")
    address = process.expect(r"running at http://(\S+) ")[1]
    key, password = process.expect(r"API key +(\S+)")[1], process.expect(r"admin login +demo / (\S+)")[1]
    return Demo(address, key, password, Path(process.expect(r"firmware +(\S+),")[1]))


@pytest.fixture(scope="session")
def welcome() -> Callable[[Process], Demo]:
    """Reads what `mdash demo` prints."""
    return what_it_says


@pytest.fixture(scope="session")
def demo(start: Callable[..., object]) -> Iterator[Demo]:
    """`mdash demo`, running."""
    with start("exec mdash demo --bind 127.0.0.1:0") as process:  # type: ignore[attr-defined]
        yield what_it_says(process)
