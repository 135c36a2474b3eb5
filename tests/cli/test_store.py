"""``mdash store``: checked, moved and saved, as an operator does it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import httpx
import pytest

NOBODY = 65534  # the number of that user


@pytest.fixture
def filled(tmp_path, start_demo):
    """A folder with what a demo has kept, after its end."""
    demo = start_demo("--folder", str(tmp_path / "devices"), env={"MDASH_DEMO_STORE": f"sqlite://{tmp_path}/store"})
    assert demo.process.end() == 0
    return f"sqlite://{tmp_path}/store"


def test_what_a_demo_leaves_is_its_owners(filled, tmp_path):
    """Only the owner can read the store and the files of the devices, whatever the umask was."""
    paths = [*tmp_path.glob("store"), *tmp_path.glob("devices"), *tmp_path.rglob("*/*")]
    assert len(paths) > 10
    assert [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_a_sound_store_is_told(mdash, filled):
    """Checked, it has no problems, and says how much is in it."""
    done = mdash("store", "check", filled)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("No problems in ")


@pytest.mark.parametrize("scheme", ["file", "sqlite"])
def test_a_store_moves_to_another_backend(mdash, filled, tmp_path, scheme):
    """Exported from one kind and imported into another, it is the same; the export is for its owner's eyes."""
    export = tmp_path / "export.jsonl"
    export.with_name("export.jsonl.part").touch(0o644)  # of one that was killed
    assert mdash("store", "export", filled, str(export)).code == 0
    assert stat.S_IMODE(export.stat().st_mode) == 0o600
    moved = f"{scheme}://{tmp_path}/moved"
    assert mdash("store", "import", moved, str(export)).out.startswith("Imported ")
    assert mdash("store", "check", moved).code == 0
    again = tmp_path / "again.jsonl"
    assert mdash("store", "export", moved, str(again)).code == 0
    assert sorted(again.read_bytes().splitlines()) == sorted(export.read_bytes().splitlines())
    refused = mdash("store", "import", moved, str(export))
    assert (refused.code, refused.out) == (1, "")
    assert "not empty" in refused.err


def test_a_password_is_reset_in_a_stopped_store(mdash, filled, spawn, tmp_path):
    """It is read from stdin; the sessions of the user end. An unknown user is an error before the question."""
    done = mdash("store", "reset-password", filled, "demo", input=b"new one\n")
    assert (done.code, done.out, done.err) == (0, "demo has a new password.\n", "")
    server = spawn("serve", "--bind", "127.0.0.1:0", "--store", filled)
    url = server.wait_for("Listening on (.+)")[1]
    assert mdash("user", "list", env={"MDASH_SERVER": url, "MDASH_USER": "demo:new one"}).code == 0
    held = mdash("store", "reset-password", filled, "demo", input=b"x\n")
    assert (held.code, str(server.pid) in held.err) == (3, True)
    assert server.end() == 0
    unknown = mdash("store", "reset-password", filled, "nosuch")
    assert (unknown.code, unknown.err) == (1, "Error: no user 'nosuch' in this store\n")
    assert mdash("store", "reset-password", f"sqlite://{tmp_path}/mistyped", "demo").code == 3
    assert not (tmp_path / "mistyped").exists()


def test_an_import_reads_stdin(mdash, filled, tmp_path):
    """With "-" in place of the file."""
    mdash("store", "export", filled, str(tmp_path / "export.jsonl"))
    data = (tmp_path / "export.jsonl").read_bytes()
    assert mdash("store", "import", f"file://{tmp_path}/moved", "-", input=data).code == 0
    assert mdash("store", "check", f"file://{tmp_path}/moved").code == 0


def test_a_store_of_another_user_names_its_owner(run, tmp_path):
    """A folder, or a file in it, without permission is one line and code 3: by whatever command, on either backend."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("a store of another user is needed, so the test has to be root")
    as_any_user = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    for scheme in ("file", "sqlite"):
        folder = tmp_path / scheme
        folder.mkdir(0o700)
        (folder / "lock").touch(0o600)
        for path in (folder, folder / "lock"):
            os.chown(path, NOBODY, NOBODY)
        (tmp_path / "export.jsonl").write_text('{"format":"mdashcore","version":1}\n')
        for mode, words in ((0o700, str(folder)), (0o755, str(folder / "lock"))):
            folder.chmod(mode)
            url = f"{scheme}://{folder}"
            arguments = [("check", url), ("import", url, str(tmp_path / "export.jsonl")), ("reset-password", url, "x")]
            for command in arguments if (scheme, mode) == ("file", 0o700) else arguments[:1]:  # all ask one function
                done = run("store", *command, wrapper=as_any_user)
                assert (done.code, done.err.count("\n")) == (3, 1), (command, done.err)
                assert f"{words} belongs to nobody, and this process is root's" in done.err, (command, done.err)


def test_a_store_in_use_names_its_holder(mdash, tmp_path, start_demo):
    """A store that a server holds cannot be opened beside it; the error names the holder."""
    url = f"sqlite://{tmp_path}/store"
    demo = start_demo("--folder", str(tmp_path / "devices"), env={"MDASH_DEMO_STORE": url})
    done = mdash("store", "check", url)
    assert done.code == 3
    assert str(demo.process.pid) in done.err
    assert len(done.err.splitlines()) == 1


def test_a_running_server_is_backed_up(mdash, tmp_path, start_demo):
    """The backup of a server that serves is whole, and can be imported. A key may not take one, and is not offered."""
    demo = start_demo("--folder", str(tmp_path / "devices"), env={"MDASH_DEMO_STORE": f"sqlite://{tmp_path}/store"})
    backup = tmp_path / "backup.jsonl"
    done = mdash("store", "backup", str(backup), env=demo.by_admin)
    assert (done.code, done.err) == (0, "")
    assert json.loads(backup.read_bytes().splitlines()[-1])["end"] is True
    assert mdash("store", "import", f"file://{tmp_path}/restored", str(backup)).code == 0
    assert mdash("store", "check", f"file://{tmp_path}/restored").code == 0
    refused = mdash("store", "backup", str(tmp_path / "no.jsonl"), env=demo.by_key)
    assert refused.code == 2
    assert "--user" in refused.err
    assert "--key" not in mdash("store", "backup", "--help").out
    assert not (tmp_path / "no.jsonl").exists()
    response = httpx.get(f"{demo.url}/api/v2/backup", headers={"Authorization": f"Bearer {demo.key}"})
    assert response.status_code == 403


def test_wrong_arguments_are_said_in_a_line(mdash, tmp_path):
    """An unknown scheme, a file that is no export, the memory backend."""
    (tmp_path / "no.jsonl").write_text("{}\n")
    for arguments, words in (
        (("check", "nosuch://x"), "nosuch"),
        (("check", "memory://"), "memory"),
        (("import", f"file://{tmp_path}/s", str(tmp_path / "no.jsonl")), "line 1"),
    ):
        done = mdash("store", *arguments)
        assert done.code == 2, done.err
        assert words in done.err
        assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["check", "export"])
def test_a_store_that_is_not_there_is_not_made(mdash, tmp_path, command):
    """A mistyped URL is an error: no new store, and an older export stays as it was."""
    export = tmp_path / "export.jsonl"
    export.write_text("precious")
    arguments = (str(export),) if command == "export" else ()
    for scheme in ("file", "sqlite"):
        done = mdash("store", command, f"{scheme}://{tmp_path}/mistyped", *arguments)
        assert done.code == 3
        assert "no store" in done.err
    assert not (tmp_path / "mistyped").exists()
    assert export.read_text() == "precious"


def test_a_folder_of_another_kind_is_refused(mdash, filled):
    """The folder of one backend is not taken for an empty one by another."""
    done = mdash("store", "check", filled.replace("sqlite", "file"))
    assert done.code == 3
    assert "SQLite" in done.err


def test_an_import_that_failed_is_not_served(mdash, filled, tmp_path, spawn):
    """An import that is cut off in the middle leaves a store that cannot be opened, with an error that says why."""
    export = tmp_path / "export.jsonl"
    assert mdash("store", "export", filled, str(export)).code == 0
    export.write_bytes(export.read_bytes()[:700])
    half = f"sqlite://{tmp_path}/half"
    assert mdash("store", "import", half, str(export)).code == 2
    for done in (mdash("store", "check", half), mdash("store", "import", half, str(export))):
        assert done.code == 1, done.err
    server = spawn("serve", "--bind", "127.0.0.1:0", "--store", half)
    assert server.wait() == 3
    assert "not finished" in server.err


def test_damage_in_a_database_is_named(mdash, filled):
    """SQLite's own check runs as well: the table is named, also where reading everything would not notice."""
    database = Path(filled.removeprefix("sqlite://")) / "mdash.db"
    with closing(sqlite3.connect(database)) as db:
        [(page,)] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_documents_1'")
        [(size,)] = db.execute("PRAGMA page_size")
        db.execute("PRAGMA journal_mode = DELETE")
    with database.open("r+b") as file:
        file.seek((page - 1) * size + 4)  # the number of cells, and where they are
        file.write(b"\xff\xff")
    before = database.read_bytes()
    done = mdash("store", "check", filled)
    assert done.code == 1
    assert f"{database} is damaged: table documents: " in done.err
    assert database.read_bytes()[100:] == before[100:]  # but for the mode in its head


def test_a_torn_end_is_told_and_left(mdash, filled, tmp_path):
    """What a power cut has left of an append is a note with its size, not a problem, and nothing is changed."""
    export = tmp_path / "export.jsonl"
    assert mdash("store", "export", filled, str(export)).code == 0
    folder = tmp_path / "plain"
    assert mdash("store", "import", f"file://{folder}", str(export)).code == 0
    [log] = folder.glob("logs/notifications/*.log/*.jsonl")
    with log.open("ab") as file:
        file.write(b'{"offset":')
    before = contents(folder)
    done = mdash("store", "check", f"file://{folder}")
    assert done.code == 0
    assert done.err.startswith(
        f"Note: {log}: the next start will cut off 10 bytes from byte {log.stat().st_size - 10} on"
    )
    assert len(done.err.splitlines()) == 1
    assert done.out.startswith("No problems in ")
    assert contents(folder) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["import", "check"])
def test_a_folder_with_other_files_is_left_alone(mdash, filled, tmp_path, command):
    """A folder that is no store and not empty becomes none: the files in it are named."""
    export = tmp_path / "export.jsonl"
    assert mdash("store", "export", filled, str(export)).code == 0
    folder = tmp_path / "home"
    (folder / "documents").mkdir(parents=True)
    (folder / "documents" / "letter.txt").write_text("Dear")
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    done = mdash("store", command, f"file://{folder}", *([str(export)] if command == "import" else []))
    assert done.code == 3
    assert f"{folder} is no store, and not empty: there is 'notes.txt'" in done.err
    assert contents(folder) == before
