"""The wheel and the source archive: what is in them, what they say of themselves, and what works from there alone."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import httpx
import pytest
from children import default_signals

import mdashcore

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(built.wheel) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    """What the wheel says of itself."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_string(wheel.read(name).decode())


def test_an_index_would_take_them(built):
    """`twine check` has nothing to say, about the README as the long description either."""
    command = [sys.executable, "-m", "twine", "check", "--strict", str(built.sdist), str(built.wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_has_all_of_the_source_and_nothing_else(wheel):
    """The packages with their type markers, the dashboard and the licence; no test, no cache."""
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = set(wheel.namelist())
    packages = {name for name in found if ".dist-info/" not in name}
    if tracked.returncode == 0:  # in a clone, and not in a source archive
        missing = {name.removeprefix("src/") for name in tracked.stdout.splitlines()} - packages
        assert {name for name in missing if (ROOT / "src" / name).exists()} == set()
    assert {"mdashcore/py.typed", "mdash_backends/py.typed", "mdashcore/server/ui/index.html"} <= packages
    assert {name.split("/")[0] for name in packages} == {"mdashcore", "mdash_backends"}
    assert {Path(name).suffix for name in packages} <= {".py", ".typed", ".js", ".css", ".html", ".svg"}
    (licence,) = [name for name in found if name.endswith(".dist-info/licenses/LICENSE")]
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_the_metadata(metadata):
    """Version, licence, Python and extras are those of the project; all its classifiers exist."""
    from trove_classifiers import classifiers

    assert (metadata["Name"], metadata["Version"]) == ("mdashcore", mdashcore.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert sorted(metadata.get_all("Provides-Extra")) == sorted(PROJECT["optional-dependencies"])
    assert set(metadata.get_all("Classifier")) <= classifiers
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_requirement_is_bounded():
    """Below and above, in extras and groups too: a release of a library cannot break an installed version of ours."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values(), *groups.values()]
    for requirement in (each for found in lists for each in found if isinstance(each, str)):
        if not requirement.startswith("mdashcore["):
            assert re.search(r">=[\d.]+,<[\d.]+$|>=[\d.]+,<\d+$", requirement), requirement


def test_the_source_archive_can_be_worked_on(built):
    """It has what `make test` and the documentation need, and nothing that git ignores."""
    with tarfile.open(built.sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["Makefile", "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "tests/run"]
    assert set(wanted) <= found
    assert {"docs/index.md", "docs/images/dashboard.png", "benchmarks/__main__.py"} <= found
    assert [name for name in found if re.search(r"__pycache__|\.pyc$|node_modules|(^|/)_?build/|\.venv", name)] == []


# From the wheel, in an environment that was empty


@pytest.fixture(scope="module")
def bare(make_environment, built):
    """With the core alone."""
    environment = make_environment()
    environment.install(str(built.wheel))
    return environment


@pytest.fixture(scope="module")
def installed(bare, built):
    """With the server in addition."""
    bare.install(f"{built.wheel}[server]")
    return bare


def test_the_core_alone(bare):
    """It can be imported, stores in memory, files and SQLite can be opened; the command says what it needs."""
    program = (
        "import mdashcore.hub; from mdashcore.storage import open_backend; import anyio\n"
        "async def main():\n"
        "    for url in ('memory://', 'file://./f', 'sqlite://./s'):\n"
        "        async with open_backend(url): pass\n"
        "    try: open_backend('redis://127.0.0.1')\n"
        "    except Exception as exc: print(exc)\n"
        "anyio.run(main)"
    )
    done = bare.run("python", "-W", "error", "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("it needs hiredis: pip install 'mdashcore[redis]'\n")
    for command in (["mdash"], ["python", "-m", "mdashcore"]):
        done = bare.run(*command, "--version")
        assert done.returncode == 1
        assert done.stderr == "Error: the command mdash needs more than the core: pip install 'mdashcore[server]'\n"


def test_the_demo_with_its_page(installed):
    """`mdash demo` starts; all files of the dashboard are there; the lines that it prints work."""
    assert installed.run("mdash", "--version").stdout == f"mdash {mdashcore.__version__}\n"
    with default_signals():
        process = subprocess.Popen(
            [str(installed.bin / "mdash"), "demo", "--bind", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            text=True,
            env=installed.variables,
            cwd=installed.folder,
        )
    try:
        said = ""
        while "Ctrl-C ends it" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        url = re.search(r"running at (\S+) ", said)[1]
        with httpx.Client(base_url=url, timeout=20) as client:
            assert "<title>" in client.get("/", headers={"Accept": "text/html"}).text
            for file in (ROOT / "src" / "mdashcore" / "server" / "ui").rglob("*.*"):
                if file.suffix in (".js", ".css", ".svg"):
                    path = file.relative_to(ROOT / "src" / "mdashcore" / "server" / "ui").as_posix()
                    assert client.get(f"/ui/{path}").content == file.read_bytes(), path
        lines = [*re.findall(r"^  (export .+)$", said, re.MULTILINE), "mdash devices list"]
        done = subprocess.run(
            ["sh", "-c", "\n".join(lines)],
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "Lamp in the hall" in done.stdout
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()
