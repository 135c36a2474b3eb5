"""The folder that a backend owns: its URL, and the lock."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mdash_backends._lock import _command, folder_of, hold_folder
from mdashcore._errors import InvalidInput, StorageError


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("sqlite:///var/lib/mdash", "/var/lib/mdash"),
        ("sqlite:///var/lib/mdash/", "/var/lib/mdash"),
        ("sqlite:///a%20b%3F%25/ä", "/a b?%/ä"),
        ("sqlite://./data/mdash", "{cwd}/data/mdash"),
        ("sqlite://../data", "{cwd}/../data"),
    ],
)
def test_url_of_a_folder(url: str, folder: str) -> None:
    """An absolute or a relative path, with the escapes of a URL."""
    assert str(folder_of(url)) == folder.format(cwd=Path.cwd())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite://", "not a host"),
        ("sqlite://var/lib/mdash", "not a host"),
        ("sqlite://.", "not a host"),
        ("sqlite:///", "no folder of its own"),
        ("sqlite://./", "no folder of its own"),
        ("sqlite:///a/..", "no folder of its own"),
        ("sqlite:///data?timeout=5", "no options"),
        ("sqlite:///data#1", "no options"),
        ("sqlite:///a%00b", "NUL"),
        ("sqlite:///a%ff", "not UTF-8"),
        ("sqlite:data", "SCHEME://"),
    ],
)
def test_url_of_no_folder(url: str, reason: str) -> None:
    """Anything else is refused with a text that says what to write."""
    with pytest.raises(InvalidInput, match=reason):
        folder_of(url)


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    """It and those above it are made, for their owner's eyes only; one that is there stays as it is."""
    tmp_path.chmod(0o755)
    with hold_folder(tmp_path / "a" / "b"):
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["lock"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert modes == [0o755, 0o700, 0o700]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the way is an error of the storage, which names it."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=f"{path} cannot be used"), hold_folder(path):
            pass


HOLDER = """
import pathlib, sys
from mdash_backends._lock import hold_folder

with hold_folder(pathlib.Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_process(tmp_path: Path) -> None:
    """A second process gets an error that names the holder of the folder; any death of the holder frees it."""
    program = tmp_path / "mdash"
    program.write_text(HOLDER)
    command = [sys.executable, program, "serve", tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        who = rf"{tmp_path} is in use by process {holder.pid} \(mdash serve\), since 20..-..-.. ..:..:.. UTC"
        with pytest.raises(StorageError, match=f"^{who}$"), hold_folder(tmp_path):
            pass
        holder.kill()
    with hold_folder(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_second_in_this_process(tmp_path: Path) -> None:
    """A process cannot hold the folder twice; after it has let go it can again, and no holder is named."""
    with hold_folder(tmp_path):
        with pytest.raises(StorageError, match=f"in use by process {os.getpid()} "), hold_folder(tmp_path):
            pass
        with pytest.raises(StorageError, match="in use"), hold_folder(tmp_path):
            pass
    assert (tmp_path / "lock").read_bytes() == b""
    with pytest.raises(ZeroDivisionError), hold_folder(tmp_path):
        raise ZeroDivisionError
    with hold_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/usr/bin/mdash", "serve", "--admin", "joe:hunter2"], "mdash serve"),
        (["/usr/bin/mdash", "--admin=joe:hunter2"], "mdash"),
        (["/lib/mdashcore/cli/__main__.py", "demo"], "cli demo"),
        (["-c"], "python"),
        ([], "python"),
    ],
)
def test_what_is_told_of_a_holder(arguments: list[str], told: str) -> None:
    """The program and its subcommand: other words could be secrets."""
    assert _command(arguments) == told


def test_holder_that_says_nothing(tmp_path: Path) -> None:
    """Whatever stands in the lock file, it is locked or not."""
    with hold_folder(tmp_path):
        for said in (b"", b"\xff\x00\x1b[2J", b"process 1\n\x1b[2J"):
            (tmp_path / "lock").write_bytes(said)
            with pytest.raises(StorageError, match=r"is in use by another process$"), hold_folder(tmp_path):
                pass
    with hold_folder(tmp_path):
        pass
