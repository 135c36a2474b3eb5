"""What is handed to users: the wheel and the source archive, built once, and environments that were empty before."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Environment:
    """A virtual environment without anything in it but what a test installs."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def variables(self) -> dict[str, str]:
        """Nothing of this process's Python."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MDASH_"))}
        return {**own, "MDASH_STORE": "memory://", "MDASH_DEMO_STORE": "memory://"}

    def install(self, *requirements: str) -> None:
        """Install with uv, which keeps what it has fetched."""
        where = ["--python", str(self.bin / "python")]  # else uv would take the environment that it is installed in
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", *where, *requirements]
        done = subprocess.run(command, env=self.variables, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    def run(self, command: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in a folder that is not the project's."""
        return subprocess.run(
            [str(self.bin / command), *arguments],
            env=self.variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Environment]:
    """Makes environments of the Python that runs the tests."""

    def make() -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        command = [sys.executable, "-m", "uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        subprocess.run(command, check=True, timeout=240)
        return Environment(folder)

    return make


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder once for all workers of pytest-xdist: `made_once("site", build)`."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@attrs.frozen
class Built:
    """What `make dist` makes."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def built(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Built:
    """The source archive of the project as it is here; and the wheel, built from nothing but that archive."""
    folder = made_once("dist", _build)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Built(sdist, wheel)


def _build(folder: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run([*build, "-t", "sdist"], cwd=ROOT, check=True, capture_output=True, timeout=280)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    subprocess.run([*build, "-t", "wheel"], cwd=source, check=True, capture_output=True, timeout=280)
