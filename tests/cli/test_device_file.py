"""Files of devices, and their import."""

from __future__ import annotations

import csv
import json
import stat

import pytest

from mdashcore.cli.device_file import TokenFile, read_devices
from mdashcore.cli.exits import CliError
from mdashcore.server.api._device_documents import csv_cells
from mdashcore.server.csv_text import csv_line

TOKEN = "Q2hhbmdlIG1lIQ-8f2a9c"


@pytest.fixture
def alice(demo, mdash, request):
    """The environment of a new user without devices."""
    name = f"importer.{abs(hash(request.node.nodeid))}"
    assert mdash("user", "add", name, "--password", "pw", env=demo.by_admin).code == 0
    return {"MDASH_SERVER": demo.url, "MDASH_USER": f"{name}:pw"}


def test_devices_are_read_with_their_tags(tmp_path):
    """A byte order mark, quotes and spaces do no harm."""
    path = tmp_path / "fleet.csv"
    path.write_text('\ufeffid,name,tags\n lamp ,"Lamp, hall",site=x y; indoor\nfan,,\n', encoding="utf-8")
    assert [row.document for row in read_devices(path, with_tokens=False)] == [
        {"id": "lamp", "name": "Lamp, hall", "tags": {"site": "x y", "indoor": True}},
        {"id": "fan"},
    ]


def test_an_exported_list_is_read_as_it_was(tmp_path):
    """Tags with spaces, and names that a spreadsheet would take for formulas, which no cell begins like."""
    names = ["-x", "=1", "'=1", "''+", "'s", "\uff1d1", "\uff20x", "\uff0b1", "\uff0d1", 'say "hi"', "a,b"]
    documents = [
        {"id": f"d{number}", "name": name, "tags": {"site": "new york", "indoor": True, "-": name}}
        for number, name in enumerate(names)
    ]
    columns = ["id", "name", "tags"]
    lines = [csv_line(columns), *(csv_line(csv_cells(document, columns)) for document in documents)]
    path = tmp_path / "fleet.csv"
    path.write_text("".join(lines), encoding="utf-8", newline="")
    assert [row.document for row in read_devices(path, with_tokens=False)] == documents
    with path.open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[0] in "=+-@\uff1d\uff0b\uff0d\uff20"]
    assert csv_line(["\n=1"]) == '"\'\n=1"\r\n'


@pytest.mark.parametrize(
    ("text", "with_tokens", "words"),
    [
        ("", False, "names of the columns"),
        ("name\nx\n", False, "names of the columns"),
        ("id,colour\na,b\n", False, "names of the columns"),
        ("id,token\na,b\n", False, "mdash user import"),
        ("id\na/b\n", False, "line 2: a device id has"),
        ("id\na\nb\na\n", False, "line 4: a stands in line 2, too"),
        ("id,name\na\n", False, "line 2: it has another number"),
        ("id,tags\na,=x\n", False, "line 2: a tag's name"),
        ("id,token\na,short\n", True, "line 2: that is no token"),
        ("id,token\na,aaaaaaaaaaaaaaaaaaaa\n", True, "too weak"),
        ("id,token\na,\n", True, "a token or its SHA-256"),
        ("id,token\na,Q2hhbmdlIG1lIQ-8f2a9c\nb,Q2hhbmdlIG1lIQ-8f2a9c\n", True, "line 3: its token is that of line 2"),
        ("id,token,token_sha256\na,Q2hhbmdlIG1lIQ-8f2a9c,ab\n", True, "one of them"),
        ("id,token_sha256\na,abc\n", True, "64 hexadecimal"),
        ("id\n\xff\n", False, "not encoded in UTF-8"),
        ("id;name\na;b\n", False, "separated by commas"),
        ("id,name\n", False, "no devices"),
    ],
)
def test_a_wrong_file_imports_nothing(tmp_path, text, with_tokens, words):
    """The error names the line."""
    path = tmp_path / "fleet.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CliError) as caught:
        read_devices(path, with_tokens=with_tokens)
    assert words in str(caught.value)


def test_tokens_are_kept_across_interruptions(tmp_path):
    """What was begun is known; only the owner can read the file."""
    path = tmp_path / "tokens.csv"
    kept = TokenFile(path)
    kept.begin("a")
    kept.write("a", "mdd_x")
    kept.begin("b")
    kept.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = TokenFile(path)
    assert again.tokens == {"a": "mdd_x", "b": ""}
    again.close()
    assert path.read_text() == "id,token\na,mdd_x\nb,\n"


def test_a_tokens_file_belongs_to_one_import(tmp_path):
    """A second import at the same time is refused, and loses no token of the first; a later one goes on."""
    path = tmp_path / "tokens.csv"
    first = TokenFile(path)
    first.write("a", "mdd_x")
    with pytest.raises(CliError, match="another import writes"):
        TokenFile(path)
    first.write("id", "mdd_y")  # an id like any other
    first.close()
    again = TokenFile(path)
    assert again.tokens == {"a": "mdd_x", "id": "mdd_y"}
    again.close()


def test_a_file_of_something_else_is_no_tokens_file(tmp_path):
    """A name that was mistyped, such as that of the devices: the file stays as it is."""
    path = tmp_path / "fleet.csv"
    for text in ("id,name\nlamp,Lamp\n", "notes\n", "id\nlamp\n"):
        path.write_text(text)
        with pytest.raises(CliError, match="has no tokens"):
            TokenFile(path)
        assert path.read_text() == text


def test_an_import_ends_when_no_device_can_be_registered(alice, mdash, tmp_path):
    """Without a server, and with credentials that are refused: the exit code is that of any other command."""
    fleet, tokens = tmp_path / "fleet.csv", tmp_path / "tokens.csv"
    fleet.write_text("id\n" + "".join(f"d{n}\n" for n in range(12)))
    command = ("devices", "import", str(fleet), "--tokens", str(tokens))
    for env, code in (
        ({"MDASH_SERVER": alice["MDASH_SERVER"], "MDASH_KEY": "mdk_of_nobody"}, 4),
        (alice | {"MDASH_SERVER": "http://127.0.0.1:9"}, 3),
    ):
        done = mdash(*command, env=env)
        assert (done.code, done.out) == (code, "0 registered, 0 were there already, 0 failed\n")
        assert "the same command goes on" in done.err
    assert mdash(*command, env=alice).out == "12 registered, 0 were there already, 0 failed\n"


def test_an_import_goes_on(alice, mdash, tmp_path):
    """A device whose token did not reach the file gets another; one that was there before keeps its own."""
    fleet, tokens = tmp_path / "fleet.csv", tmp_path / "tokens.csv"
    fleet.write_text("id,tags\na,site=x\nb,\nc,\n")
    _, before = mdash("devices", "add", "c", env=alice).out.split()
    assert mdash("devices", "add", "b", env=alice).code == 0
    tokens.write_text("id,token\nb,\n")  # interrupted after the registration of b
    command = ("devices", "import", str(fleet), "--tokens", str(tokens))
    assert mdash(*command, env=alice).out == "2 registered, 1 were there already, 0 failed\n"
    with tokens.open() as file:
        written = dict(csv.reader(file))
    assert set(written) == {"id", "a", "b"}
    assert before not in written.values()
    assert mdash(*command, env=alice).out == "0 registered, 3 were there already, 0 failed\n"
    with tokens.open() as file:
        assert dict(csv.reader(file)) == written
    assert json.loads(mdash("devices", "show", "a", "--json", env=alice).out)["tags"] == {"site": "x"}


def test_an_import_revokes_no_token_that_is_in_use(alice, demo, mdash, spawn, wait_told, tmp_path):
    """A device whose registration was interrupted, and which has connected with a token from elsewhere, is reported."""
    fleet, tokens = tmp_path / "fleet.csv", tmp_path / "tokens.csv"
    fleet.write_text("id\na\n")
    tokens.write_text("id,token\na,\n")
    _, token = mdash("devices", "add", "a", env=alice).out.split()
    device = spawn("device", env={"MDASH_SERVER": demo.url, "MDASH_TOKEN": token})
    wait_told(alice, "online", "a")
    done = mdash("devices", "import", str(fleet), "--tokens", str(tokens), env=alice)
    assert (done.code, "mdash devices token a" in done.err) == (1, True)
    assert tokens.read_text() == "id,token\na,\n"
    assert json.loads(mdash("devices", "show", "a", "--json", env=alice).out)["online"] is True
    device.end()


def test_tokens_of_another_service_are_imported(demo, alice, mdash, tmp_path):
    """By an admin, again without harm; a token that another device has is refused."""
    fleet = tmp_path / "fleet.csv"
    fleet.write_text(f"id,token\na,{TOKEN}{abs(hash(str(tmp_path)))}\n")
    name = alice["MDASH_USER"].partition(":")[0]
    command = ("user", "import", name, str(fleet))
    assert mdash(*command, env=demo.by_admin).out == "1 registered, 0 were there already, 0 failed\n"
    assert mdash(*command, env=demo.by_admin).out == "0 registered, 1 were there already, 0 failed\n"
    fleet.write_text(fleet.read_text().replace("\na,", "\nb,"))
    refused = mdash(*command, env=demo.by_admin)
    assert (refused.code, "another device has this token" in refused.err) == (1, True)
    assert mdash("devices", "list", env=alice).out.count("\n") == 1
