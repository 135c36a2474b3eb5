"""A device's files, from its page."""

from __future__ import annotations

import base64
import re

import pytest
from playwright.sync_api import expect

from mdashcore._errors import RpcError


@pytest.fixture
def put(person):
    """Puts a file on a device: ``put("lamp", "init.js", b"…")``."""

    def write(id, name, data):
        for at in range(0, max(len(data), 1), 3000):
            part = base64.b64encode(data[at : at + 3000]).decode()
            params = {"filename": name, "data": part, "append": at > 0}
            answer = person.http.post(f"/devices/{id}/rpc/FS.Put", json=params)
            assert answer.status_code == 200, answer.text

    return write


@pytest.fixture
def files(person, tmp_path):
    """What is on a device's flash: ``files("lamp")``, by name."""
    return lambda id: {path.name: path.read_bytes() for path in (tmp_path / "devices" / id / "fs").iterdir()}


def open_file(page, name):
    """Click a file's name."""
    page.get_by_role("row", name=name).get_by_role("button", name=name, exact=True).click()


def content(page):
    """The file that is open."""
    return page.get_by_role("region", name="Content")


def drop(page, selector, **files):
    """Drop files onto an element, as from the desktop."""
    page.evaluate(
        """async ([selector, files]) => {
          const transfer = new DataTransfer();
          for (const [name, text] of Object.entries(files)) transfer.items.add(new File([text], name));
          const target = document.querySelector(selector);
          for (const type of ["dragover", "drop"]) {
            target.dispatchEvent(new DragEvent(type, {bubbles: true, cancelable: true, dataTransfer: transfer}));
          }
        }""",
        [selector, files],
    )


def test_a_text_is_written_and_edited(open_page, person, fleet, files, put, axe):
    """A new file, a change of it, Ctrl+S; the device has what was written, line ends as they were."""
    fleet.connect("lamp")
    put("lamp", "dos.txt", b"one\r\ntwo\r\n")
    page = open_page(person, "#/device/lamp/files")
    page.get_by_role("button", name="New file").click()
    page.get_by_role("dialog", name="New file").get_by_label("Name").fill("init.js")
    page.keyboard.press("Enter")
    content(page).get_by_label("Content of init.js").fill("print('grüß');\n")
    axe(page)
    content(page).get_by_role("button", name="Save").click()
    expect(content(page)).to_contain_text("saved on the device")
    expect(page.get_by_role("row", name="init.js")).to_contain_text("17 B")
    open_file(page, "dos.txt")
    area = content(page).get_by_label("Content of dos.txt")
    expect(area).to_have_value("one\ntwo\n")
    area.fill("one\nthree\n")
    area.press("Control+s")
    expect(content(page).get_by_role("button", name="Save")).to_be_disabled()
    expect(page.get_by_role("row", name="dos.txt")).to_contain_text("12 B")
    assert files("lamp") == {"init.js": "print('grüß');\n".encode(), "dos.txt": b"one\r\nthree\r\n"}


def test_bytes_are_shown_in_hex(open_page, person, fleet, put, axe):
    """What is no text cannot be spoiled by editing it as one."""
    fleet.connect("lamp")
    put("lamp", "logo.bin", bytes(range(256)) * 20)
    put("lamp", "empty", b"")
    page = open_page(person, "#/device/lamp/files")
    open_file(page, "logo.bin")
    expect(content(page)).to_contain_text("5.0 KiB, binary")
    dump = page.get_by_role("group", name="Bytes of logo.bin")
    expect(dump).to_contain_text("00000040  40 41 42 43 44 45 46 47  48 49 4a 4b 4c 4d 4e 4f  |@ABCDEFGHIJKLMNO|")
    expect(content(page).get_by_role("button", name="Save")).to_have_count(0)
    axe(page)
    content(page).get_by_role("button", name="Show more").click()
    expect(dump).to_contain_text("000013f0")
    content(page).get_by_role("button", name="Close").click()
    expect(page.get_by_role("button", name="logo.bin", exact=True)).to_be_focused()
    open_file(page, "empty")
    expect(content(page).get_by_label("Content of empty")).to_have_value("")


def test_files_are_dropped_and_replaced(open_page, person, fleet, files, put, axe):
    """Several together, with the result of each; a file that is there is replaced only when the person says so."""
    fleet.connect("lamp")
    put("lamp", "a.txt", b"old")
    page = open_page(person, "#/device/lamp/files")
    expect(page.get_by_role("row", name="a.txt")).to_be_visible()
    long = "0123456789" * 2000
    drop(page, ".drop", **{"a.txt": "new", "long.txt": long})
    dialog = page.get_by_role("dialog", name="Replace the file?")
    expect(dialog).to_contain_text("What is now in a.txt is lost.")
    axe(page)
    dialog.get_by_role("button", name="Cancel").click()
    assert files("lamp") == {"a.txt": b"old"}
    drop(page, ".drop", **{"a.txt": "new", "long.txt": long})
    dialog.get_by_role("button", name="Replace").click()
    transfers = page.get_by_role("region", name="Transfers")
    expect(transfers.get_by_role("listitem").filter(has_text="Upload long.txt")).to_contain_text("19.5 KiB of 19.5 KiB")
    expect(page.get_by_role("row", name="long.txt")).to_contain_text("19.5 KiB")
    axe(page)
    assert files("lamp") == {"a.txt": b"new", "long.txt": long.encode()}
    dismiss = transfers.get_by_role("button", name="Dismiss")
    expect(dismiss).to_have_count(2)
    for button in dismiss.all()[::-1]:
        button.click()
    expect(transfers).to_be_hidden()


def test_a_file_is_downloaded_whole(open_page, person, fleet, put):
    """Chunk by chunk from the device, as it is there."""
    fleet.connect("lamp")
    data = bytes(range(256)) * 100
    put("lamp", "data.bin", data)
    page = open_page(person, "#/device/lamp/files")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download data.bin").click()
    assert download.value.suggested_filename == "data.bin"
    assert download.value.path().read_bytes() == data


def test_renaming_and_deleting(open_page, person, fleet, files, put, axe):
    """Neither overwrites by mistake; deleting says what is lost; the device's errors show in the dialog."""
    fleet.connect("lamp")
    put("lamp", "a.txt", b"a")
    put("lamp", "b.txt", b"b")
    page = open_page(person, "#/device/lamp/files")
    page.get_by_role("button", name="Rename a.txt").click()
    dialog = page.get_by_role("dialog", name="Rename")
    dialog.get_by_label("New name").fill("b.txt")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("There is a file of this name already")
    dialog.get_by_label("New name").fill("c" * 32)
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("Invalid filename")
    dialog.get_by_label("New name").fill("c.txt")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row", name="c.txt")).to_be_visible()
    page.get_by_role("button", name="Delete c.txt").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Delete c.txt")).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Delete the file?")
    expect(dialog).to_contain_text("c.txt is deleted on the device, and cannot be brought back.")
    axe(page)
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("row", name="c.txt")).to_have_count(0)
    assert files("lamp") == {"b.txt": b"b"}


def test_a_full_flash_loses_nothing(open_page, person, fleet, files, put):
    """The write fails in words, the old file is still whole, and what was written is still in the editor."""
    fleet.connect("lamp", fs_size=8192)
    put("lamp", "a.txt", b"old")
    page = open_page(person, "#/device/lamp/files")
    open_file(page, "a.txt")
    area = content(page).get_by_label("Content of a.txt")
    area.fill("x" * 20_000)
    content(page).get_by_role("button", name="Save").click()
    expect(content(page).get_by_role("alert")).to_contain_text("on the device it is as it was")
    expect(page.get_by_role("region", name="Transfers")).to_contain_text("Failed to write data")
    assert files("lamp") == {"a.txt": b"old"}
    expect(area).to_have_value("x" * 20_000)
    content(page).get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog", name="Close without saving?")).to_contain_text("is lost")


@pytest.mark.proof  # drafts are kept in one place: those of the shadow and of forms are looked at in the gate
def test_what_was_typed_is_there_again(open_page, person, fleet, files, put):
    """Looking at another tab loses nothing; saving goes on from there."""
    fleet.connect("lamp")
    put("lamp", "a.txt", b"old")
    page = open_page(person, "#/device/lamp/files")
    open_file(page, "a.txt")
    content(page).get_by_label("Content of a.txt").fill("newer")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="About")).to_be_visible()
    page.get_by_role("link", name="Files").click()
    expect(content(page).get_by_label("Content of a.txt")).to_have_value("newer")
    content(page).get_by_role("button", name="Save").click()
    expect(content(page)).to_contain_text("saved on the device")
    assert files("lamp") == {"a.txt": b"newer"}


def test_an_upload_goes_on_behind_other_tabs_and_can_be_stopped(open_page, person, fleet, files, wait_until):
    """Leaving the tab does not stop it; the list is there again on return; stopping leaves no half file."""
    fleet.connect("lamp")
    page = open_page(person, "#/device/lamp/files")
    expect(page.get_by_text("There are no files on the device")).to_be_visible()
    drop(page, ".drop", **{"one.txt": "1" * 100_000})
    page.get_by_role("link", name="Shadow").click()
    expect(page.get_by_role("heading", name="Reported")).to_be_visible()
    page.get_by_role("link", name="Files").click()
    one = page.get_by_role("region", name="Transfers").get_by_role("listitem").filter(has_text="Upload one.txt")
    expect(one).to_contain_text("97.7 KiB of 97.7 KiB")
    sent = []
    page.route("**/rpc/FS.Put*", lambda route: sent.append(route) or len(sent) > 3 or route.continue_())
    drop(page, ".drop", **{"two.txt": "2" * 200_000})
    wait_until(page, lambda: len(sent) > 3)
    page.get_by_role("button", name="Stop Upload two.txt").click()
    sent[-1].continue_()
    two = page.get_by_role("region", name="Transfers").get_by_role("listitem").filter(has_text="Upload two.txt")
    expect(two).to_contain_text("Stopped")
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_role("status").filter(has_text="1 file,")).to_be_visible()
    assert set(files("lamp")) == {"one.txt"}


def test_an_offline_device_keeps_its_files_to_itself(open_page, person, fleet, put, axe):
    """What was read stays, marked as such; what would need the device cannot be clicked."""
    lamp = fleet.connect("lamp")
    put("lamp", "a.txt", b"a")
    page = open_page(person, "#/device/lamp/files")
    expect(page.get_by_role("row", name="a.txt")).to_be_visible()
    lamp.stop()
    expect(page.get_by_text("The device is offline.")).to_be_visible()
    for name in ("Refresh", "Upload", "Delete a.txt"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    axe(page)
    page.reload()
    expect(page.get_by_text("Its files can be read once it is back")).to_be_visible()
    fleet.connect("lamp", token=lamp.token)
    expect(page.get_by_role("row", name="a.txt")).to_be_visible()


def test_names_from_outside_stay_text(open_page, person, fleet, axe):
    """Whatever a device lists and sends: no script runs, and nothing breaks out of its place."""
    names = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "\u202egnp.exe", "n" * 10_000]
    text = "<img src=x onerror=alert(1)>\u202egnp"
    listed = [*({"name": name, "size": 3} for name in names), {"name": 7}, None, "plain"]
    data = base64.b64encode(text.encode()).decode()
    fleet.pretend("evil", {"FS.ListExt": listed, "FS.Get": {"data": data, "left": 0}})
    page = open_page(person, "#/device/evil/files")
    for name in names:
        expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()
    page.get_by_role("button", name=names[0], exact=True).click()
    expect(content(page).get_by_role("textbox")).to_have_value(text)
    axe(page)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth"), width
    assert page.locator("main img").count() == 0


class Flash:
    """The answers of a device whose file system renames over nothing."""

    def __init__(self, **files):
        self.files = files

    def put(self, params):
        before = self.files.get(params["filename"], b"") if params["append"] else b""
        self.files[params["filename"]] = before + base64.b64decode(params["data"])

    def get(self, params):
        rest = self.files[params["filename"]][params["offset"] :]
        part = rest[: params["len"]]
        return {"data": base64.b64encode(part).decode(), "left": len(rest) - len(part)}

    def rename(self, params):
        if params["dst"] in self.files:
            raise RpcError(500, "rename failed")
        self.files[params["dst"]] = self.files.pop(params["src"])

    def answers(self):
        return {
            "FS.ListExt": lambda _: [{"name": name, "size": len(data)} for name, data in self.files.items()],
            "FS.Get": self.get,
            "FS.Put": self.put,
            "FS.Rename": self.rename,
            "FS.Remove": lambda params: self.files.pop(params["filename"]) and None,
        }


@pytest.mark.proof  # the same steps as in test_device_edits.py, with nothing that fails
def test_a_file_system_that_renames_over_nothing(open_page, person, fleet):
    """A file can be replaced all the same, and nothing is left over."""
    flash = Flash(main=b"old")
    fleet.pretend("odd", flash.answers())
    page = open_page(person, "#/device/odd/files")
    open_file(page, "main")
    content(page).get_by_label("Content of main").fill("new" * 1000)
    content(page).get_by_role("button", name="Save").click()
    expect(content(page)).to_contain_text("saved on the device")
    assert flash.files == {"main": b"new" * 1000}


ODD = {
    "no-files": ({}, "This device has no FS.List"),
    "no-list": ({"FS.ListExt": {"not": "a list"}}, "gave no list of files"),
    "names-only": ({"FS.List": ["a"]}, "1 file, 0 B"),
}


def test_devices_that_answer_otherwise(open_page, person, fleet):
    """Without FS.ListExt the names alone are shown; without files, why; one can try again what may work."""
    page = open_page(person)
    for id, (answers, said) in ODD.items():
        fleet.pretend(id, answers)
        page.goto(f"/#/device/{id}/files")
        expect(page.get_by_role("main")).to_contain_text(re.compile(re.escape(said)))
        expect(page.get_by_role("button", name="Try again")).to_have_count(int(id == "no-list"))
