"""A Debian in a folder, in which the files of `deploy/` are tried as they would run on a machine of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from children import default_signals

ROOT = Path(__file__).parents[2]
CONFINED = Path(__file__).with_name("confined.py")

NODES = ("null", "zero", "full", "random", "urandom", "tty")

# A mount namespace of its own ends with the process. `$2` can be written where the rest of the root cannot.
READ_ONLY = """
mount --bind "$1" "$1"
mount --bind "$1/$2" "$1/$2"
mount -o remount,bind,ro "$1"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
"""
DEVICES = """
mount -t proc -o "$3" proc "$1/proc"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for node in $4; do touch "$1/dev/$node"; mount --bind "/dev/$node" "$1/dev/$node"; done
shift 4
exec chroot "$root" "$@"
"""


@attrs.frozen
class Machine:
    """A Debian in a folder."""

    root: Path
    environment: dict[str, str]

    def run(self, command: str) -> str:
        """Run lines of shell in it as root, and return the output."""
        script = f'root="$1"\n{DEVICES}'
        arguments = [str(self.root), "", "rw", " ".join(NODES), "sh", "-euc", command]
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=private", "sh", "-euc", script, "sh", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def start(
        self, *command: str, writable: str, environment: dict[str, str], proc: str = "rw"
    ) -> subprocess.Popen[str]:
        """Start a program in it, whose root can be read only, with a ``/tmp`` and ``/dev`` of its own.

        Args:
            writable: the only folder that can be written.
            proc: options of the mount of ``/proc``.
        """
        script = f'root="$1"\n{READ_ONLY}{DEVICES}'
        arguments = [str(self.root), writable, proc, " ".join(NODES), *command]
        with default_signals():
            return subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "sh", "-euc", script, "sh", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian with the packages that are essential, and apt, as an archive. It is that of this machine."""
    program = shutil.which("mmdebstrap")
    if program is None or os.geteuid() != 0:
        words = "a chroot needs mmdebstrap (see tests/run) and root"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(words)
    release = dict(re.findall(r'^(\w+)="?(.*?)"?$', Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE))
    folder = Path("/etc/apt")
    lists = [folder / "sources.list", *folder.glob("sources.list.d/*.list"), *folder.glob("sources.list.d/*.sources")]
    target = tmp_path_factory.mktemp("debian") / "debian.tar"
    command = [program, "--variant=minbase", "--mode=root", release["VERSION_CODENAME"], target]
    command += [each for each in lists if each.exists() and each.stat().st_size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield target
    target.unlink()  # large, where files of tests are kept in memory


@pytest.fixture
def make_machine(archive: Path, wheels: Path, tmp_path: Path) -> Iterator[object]:
    """Makes a machine: ``make_machine("name")``. Its pip finds `wheels` only."""
    made = []

    def make(name: str) -> Machine:
        root = tmp_path / name
        root.mkdir()
        subprocess.run(["tar", "--extract", "--file", archive, "--directory", root, "--exclude=./dev/*"], check=True)
        shutil.copytree(wheels, root / "wheels")
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        environment |= {"DEBIAN_FRONTEND": "noninteractive", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
        made.append(root)
        return Machine(root, environment)

    yield make
    for root in made:
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def wheels(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, all that it needs, and what builds it, for the Python of the archive."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (project,) = folder.glob("mdashcore-*.whl")
    version = subprocess.run(
        ["apt-cache", "depends", "--quiet", "--important", "python3"], capture_output=True, text=True, check=True
    )
    (minor,) = set(re.findall(r"Depends: python3\.(\d+)$", version.stdout, re.MULTILINE))
    command = [*pip, "download", "--only-binary=:all:", f"--python-version=3.{minor}", "--dest", folder]
    subprocess.run([*command, f"{project}[server,redis]", "hatchling>=1.26,<2"], check=True)
    return folder
