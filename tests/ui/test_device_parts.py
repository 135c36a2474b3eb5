"""What the views of a device are made of, checked against the server's own code."""

from __future__ import annotations

import base64
import io
import json
import random
import zipfile

import pytest

from mdashcore.shadow import merge

KEYS = ["a", "b", "a.b", "", "__proto__", "constructor", "ключ", "\u202ex", 'q"[]\\', "sp ace", "0", "a\nb"]


def tree(rng, depth=3):
    """A JSON value, nulls included."""
    if depth and rng.random() < 0.6:
        return {rng.choice(KEYS): tree(rng, depth - 1) for _ in range(rng.randrange(4))}
    return rng.choice([None, True, False, 0, 1, 1.5, "", "x", [1, {"a": 2}], []])


def without_nulls(value):
    """What is left when the nulls have deleted their keys."""
    if not isinstance(value, dict):
        return value
    return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}


def run(page, code, argument):
    """What a function of the page's modules gives; as JSON text, so that "__proto__" gets through."""
    return json.loads(page.evaluate(code, json.dumps(argument)))


def test_a_patch_makes_one_state_of_the_other(workbench):
    """For any two objects, the server's merge of the page's patch gives the second; none is sent without a change."""
    rng = random.Random(1)
    pairs = [({"x": tree(rng), "y": tree(rng)}, {"x": tree(rng), "z": tree(rng)}) for _ in range(400)]
    pairs = [(without_nulls(one), other) for one, other in pairs] + [(without_nulls(one),) * 2 for one, _ in pairs[:50]]
    patches = run(
        workbench,
        """async (text) => {
          const {patch} = await import(ui("tree.js"));
          return JSON.stringify(JSON.parse(text).map(([one, other]) => patch(one, other) ?? null));
        }""",
        pairs,
    )
    for (one, other), patch in zip(pairs, patches, strict=True):
        assert merge(one, patch or {}) == without_nulls(other)
        assert (patch is None) == (merge(one, {}) == without_nulls(other))


def test_the_page_merges_as_the_server_does(workbench):
    """What the page makes of a shadow that it follows is what the server has stored, whatever an update removes."""
    rng = random.Random(3)
    pairs = [(without_nulls({"x": tree(rng), "y": tree(rng)}), {"x": tree(rng), "z": tree(rng)}) for _ in range(400)]
    code = """async (text) => {
      const {merge} = await import(ui("merge.js"));
      return JSON.stringify(JSON.parse(text).map(([target, patch]) => merge(target, patch)));
    }"""
    assert run(workbench, code, pairs) == [merge(target, patch) for target, patch in pairs]


def test_paths_are_written_and_read(workbench):
    """Whatever is in a key, a path that was written is read as the same path."""
    rng = random.Random(2)
    paths = [[rng.choice(KEYS) for _ in range(rng.randrange(1, 5))] for _ in range(300)]
    code = """async (text) => {
      const {formatPath, parsePath} = await import(ui("tree.js"));
      return JSON.stringify(JSON.parse(text).map((path) => parsePath(formatPath(path))));
    }"""
    assert run(workbench, code, paths) == paths
    written = """async (text) => {
      const {formatPath} = await import(ui("tree.js"));
      return JSON.stringify(JSON.parse(text).map(formatPath));
    }"""
    assert run(workbench, written, [["wifi", "sta", "a.b"], ["ключ"]]) == ['wifi.sta["a.b"]', "ключ"]


def test_what_is_no_path_is_refused(workbench):
    """With words, not as another path."""
    code = """async (text) => {
      const {parsePath} = await import(ui("tree.js"));
      const attempt = (path) => {
        try {
          return JSON.stringify(parsePath(path));
        } catch (error) {
          return error.message;
        }
      };
      return JSON.stringify(JSON.parse(text).map(attempt));
    }"""
    for said in run(workbench, code, ["", ".a", "a.", "a..b", "a b", '["a', "a[b]", '["a"]b', "[1]"]):
        assert said.startswith(("a path is needed", "this is no path")), said


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_zips_are_read_as_python_writes_them(workbench, compression):
    """With a folder or without, with a comment, packed or not: the manifest is the one in it."""
    manifest = {"name": "lamp", "platform": "esp32", "version": "1 \u202e", "build_id": "x" * 500, "parts": {}}
    for folder, comment in (("", b""), ("lamp-1.0/", b"PK\x05\x06 a comment " * 200)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as packed:
            packed.comment = comment
            packed.writestr(f"{folder}manifest.json", json.dumps(manifest))
            packed.writestr(f"{folder}app.bin", bytes(100_000))
        read = run(
            workbench,
            """async (text) => {
              const {readFirmware} = await import(ui("zip.js"));
              const bytes = Uint8Array.from(atob(JSON.parse(text)), (sign) => sign.charCodeAt(0));
              return JSON.stringify(await readFirmware(new File([bytes], "fw.zip")));
            }""",
            base64.b64encode(file.getvalue()).decode(),
        )
        assert read["manifest"] == manifest
        assert [entry["path"] for entry in read["entries"]] == [f"{folder}manifest.json", f"{folder}app.bin"]
        assert [bool(words) for words in read["problems"]] == [True] * (compression == zipfile.ZIP_DEFLATED)


FORMATS = {
    "": [],
    "{pin: %d, value: %d}": [["pin", "integer"], ["value", "integer"]],
    "{filename: %Q, offset: %ld, data: %V, append: %B}": [
        ["filename", "text"],
        ["offset", "integer"],
        ["data", "base64"],
        ["append", "true or false"],
    ],
    "{config: %T, f: %lf, k: %.*s, m: %M, x: %y}": [
        ["config", "any JSON"],
        ["f", "number"],
        ["k", "text"],
        ["m", "any JSON"],
        ["x", "value"],
    ],
    "not a format": [],
}


def test_argument_formats_are_understood(workbench):
    """The formats that Mongoose OS devices tell; of others nothing is made up."""
    code = """async (text) => {
      const {argumentsOf} = await import(ui("views/device/arguments.js"));
      return JSON.stringify(JSON.parse(text).map((format) => argumentsOf(format).map(({name, type}) => [name, type])));
    }"""
    assert run(workbench, code, list(FORMATS)) == list(FORMATS.values())
