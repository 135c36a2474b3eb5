"""What is an image, and what no device should be given."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import ota
from mdashcore._device_zip import MAX_ZIP_NAME
from mdashcore._errors import InvalidFirmware
from mdashcore.firmware import FirmwareLimits, Image, read_image, write_image

FIELDS = {"name": "app", "platform": "esp32", "version": "1.0", "build_id": "20180601-1200/g1"}
PARTS = {"boot": b"boot" * 500, "app": bytes(range(256)) * 20}


def image_bytes(fields: Mapping[str, Any] = FIELDS, parts: Mapping[str, bytes] = PARTS, *, folder: str = "") -> bytes:
    file = io.BytesIO()
    write_image(file, fields, parts, folder=folder)
    return file.getvalue()


def manifest_of(data: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return json.loads(archive.read("manifest.json"))


def zipped(*files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as the standard library writes it, of any files in any order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return buffer.getvalue()


def with_manifest(manifest: object, **files: bytes) -> bytes:
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    return zipped(("manifest.json", text), *((f"{name}.bin", data) for name, data in files.items()))


def good(**part: object) -> dict[str, Any]:
    """A manifest of one part, with keys of the part replaced (None: left out)."""
    fields = {"type": "app", "src": "app.bin", "size": 4} | part
    return FIELDS | {"parts": {"app": {k: v for k, v in fields.items() if v is not None}}}


def read(data: bytes, **options: Any) -> Image:
    return read_image(io.BytesIO(data), name="fw.zip", **options)


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(InvalidFirmware) as caught:
        read(data, **options)
    return str(caught.value)


class TestGoodImages:
    @pytest.mark.parametrize("folder", ["", "app-1.0"])
    def test_a_firmware_zip_gives_its_manifest_and_digest(self, folder: str) -> None:
        """Everything that decides about an update is read; the digest is of the whole file."""
        data = image_bytes(FIELDS | {"build_timestamp": "2018-06-01T12:00:00Z"}, folder=folder)
        image = read(data)
        assert (image.name, image.size, image.bare) == ("fw.zip", len(data), False)
        assert image.sha256 == hashlib.sha256(data).hexdigest()
        assert (image.platform, image.version, image.build_id) == ("esp32", "1.0", "20180601-1200/g1")
        assert image.manifest is not None
        assert (image.manifest.name, image.manifest.build_timestamp) == ("app", "2018-06-01T12:00:00Z")
        assert [(part.name, part.type, part.src, part.size) for part in image.manifest.parts] == [
            ("boot", "boot", "boot.bin", 2000),
            ("app", "app", "app.bin", 5120),
        ]

    def test_other_keys_of_a_part_are_kept(self) -> None:
        """Addresses, partitions and whatever a platform needs travel along."""
        image = read(image_bytes(FIELDS | {"parts": {"app": {"addr": 65536, "ptn": "app_0"}}}))
        assert image.manifest is not None
        assert image.manifest.parts[0].other == {"addr": 65536, "ptn": "app_0"}

    def test_a_part_that_only_fills_needs_no_file(self) -> None:
        """`fill` parts erase flash; they have no `src`."""
        fields = FIELDS | {"parts": {"nvs": {"type": "fill", "size": 16384, "fill": 255}}}
        image = read(image_bytes(fields))
        assert image.manifest is not None
        assert image.manifest.parts[0].src is None

    def test_what_is_no_zip_is_a_bare_image(self) -> None:
        """It is sent as it is, and marked as bare."""
        image = read(b"\xe9raw firmware")
        assert image == Image("fw.zip", 13, hashlib.sha256(b"\xe9raw firmware").hexdigest())
        assert image.bare
        assert (image.build_id, image.version, image.platform) == (None, None, None)

    def test_the_file_is_left_at_its_start(self) -> None:
        """So that the transfer can read it from there."""
        for data in (image_bytes(), b"bare"):
            file = io.BytesIO(data)
            file.seek(3)
            read_image(file, name="x")
            assert file.tell() == 0

    def test_an_archive_comment_and_unlisted_files_do_no_harm(self) -> None:
        """Devices skip both."""
        buffer = io.BytesIO(with_manifest(good(), app=b"data", readme=b"hello"))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.comment = b"built by CI"
        assert read(buffer.getvalue()).version == "1.0"

    def test_writing_is_reproducible(self) -> None:
        """No clock gets into the bytes."""
        assert image_bytes() == image_bytes()

    def test_an_update_remembers_what_was_read(self) -> None:
        """The stored summary of an image has the same words."""
        image = read(image_bytes())
        kept = ota.UpdateImage.of(image)
        assert (kept.name, kept.size, kept.sha256, kept.bare) == (image.name, image.size, image.sha256, False)
        assert (kept.build_id, kept.version, kept.platform) == (image.build_id, image.version, image.platform)

    @given(
        st.dictionaries(
            st.text("abz019_", min_size=1, max_size=20),
            st.binary(max_size=300),
            min_size=1,
            max_size=5,
        )
    )
    def test_what_is_written_can_be_read(self, parts: dict[str, bytes]) -> None:
        """Round trip: every part with its size and digests."""
        image = read(image_bytes(parts=parts))
        assert image.manifest is not None
        assert {part.name: part.cs_sha256 for part in image.manifest.parts} == {
            name: hashlib.sha256(data).hexdigest() for name, data in parts.items()
        }

    def test_memory_stays_bounded(self) -> None:
        """A 32 MB image is checked in small blocks."""
        file = io.BytesIO(image_bytes(parts={"app": bytes(32 * 2**20)}))
        tracemalloc.start()
        try:
            read_image(file, name="big")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2**20


def link(name: str, mode: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (mode | 0o777) << 16
    return info


def flagged(bits: int, *, data: bytes | None = None) -> bytes:
    """A good image with general purpose bits set in its first local header and directory entry."""
    raw = bytearray(data or with_manifest(good(), app=b"data"))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = raw.index(signature) + at
        raw[start : start + 2] = struct.pack("<H", struct.unpack("<H", raw[start : start + 2])[0] | bits)
    return bytes(raw)


def replaced(old: bytes, new: bytes, *, last: bool = False) -> bytes:
    data = with_manifest(good(), app=b"data")
    assert len(old) == len(new)
    at = data.rindex(old) if last else data.index(old)
    return data[:at] + new + data[at + len(old) :]


def zip64_directory() -> bytes:
    """A good image with a zip64 end record that claims a directory of its own."""
    data = with_manifest(good(), app=b"data")
    end = data.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<I", data, end + 16)[0]
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, end - start, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    patched = bytearray(data[end:])
    struct.pack_into("<I", patched, 12, end - start + len(record) + len(locator))
    return data[:end] + record + locator + bytes(patched)


def streamed() -> bytes:
    """A zip written to a pipe: the sizes come behind the data."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *args: Any) -> int:
            raise OSError("a pipe cannot seek")

        def tell(self) -> int:
            raise OSError("a pipe cannot tell")

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        archive.writestr("manifest.json", json.dumps(good()))
        archive.writestr("app.bin", b"data")
    return pipe.getvalue()


def overlapping() -> bytes:
    """Two directory entries for the same bytes."""
    data = with_manifest(good(), app=b"data", two=b"data")
    central = [i for i in range(len(data)) if data.startswith(b"PK\x01\x02", i)]
    raw = bytearray(data)
    raw[central[2] + 42 : central[2] + 46] = raw[central[1] + 42 : central[1] + 46]
    return bytes(raw)


BAD_ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "compressed": (
        lambda: zipped(("manifest.json", b"{}"), method=zipfile.ZIP_DEFLATED),
        "devices cannot unpack compressed zips",
    ),
    "empty zip": (zipped, "broken"),
    "zip magic only": (lambda: b"PK\x03\x04", "broken"),
    "zip magic, then noise": (lambda: b"PK\x03\x04" + b"\xff" * 100, "not UTF-8"),
    "cut in the data": (lambda: image_bytes()[:3000], "cut off|broken"),
    "cut in the directory": (lambda: image_bytes()[:-30], "no end"),
    "bytes at the end": (lambda: image_bytes() + b"x", "not where"),
    "bytes in front": (lambda: b"PK" + image_bytes(), "broken at byte 0"),
    "manifest second": (
        lambda: zipped(("app.bin", b"data"), ("manifest.json", b"{}")),
        "not the first file",
    ),
    "no manifest": (lambda: zipped(("app.bin", b"data")), "not the first file"),
    "directory entry": (lambda: zipped(("app/", b""), ("app/manifest.json", b"{}")), "not allowed"),
    "parent path": (lambda: zipped(("manifest.json", b"{}"), ("../app.bin", b"")), "not allowed"),
    "parent path as name": (lambda: zipped(("manifest.json", b"{}"), ("..", b"")), "not allowed"),
    "absolute path": (lambda: zipped(("manifest.json", b"{}"), ("/app.bin", b"")), "not allowed"),
    "two folders deep": (lambda: zipped(("a/b/manifest.json", b"{}")), "not allowed"),
    "backslash": (lambda: replaced(b"app.bin\x64", b"a\\p.bin\x64"), "not allowed"),
    "control character": (lambda: replaced(b"app.bin\x64", b"a\x00p.bin\x64"), "not allowed"),
    "two top folders": (
        lambda: zipped(("a/manifest.json", b"{}"), ("b/app.bin", b"")),
        "not all in one folder",
    ),
    "long name": (lambda: zipped(("manifest.json", b"{}"), ("n" * (MAX_ZIP_NAME + 1), b"")), "49 bytes"),
    "link": (
        lambda: zipped(("manifest.json", json.dumps(good()).encode()), (link("app.bin"), b"data")),
        "a link",
    ),
    "device node": (
        lambda: zipped(("manifest.json", json.dumps(good()).encode()), (link("app.bin", stat.S_IFBLK), b"data")),
        "special file",
    ),
    "encrypted": (lambda: flagged(0x1), "encrypted"),
    "sizes behind the data": (streamed, "size behind its data"),
    "unknown flag": (lambda: flagged(0x20), "feature"),
    "not UTF-8 name": (
        lambda: flagged(0x800, data=with_manifest(good(), app=b"data").replace(b"manifest", b"m\xff\xfefest")),
        "not UTF-8",
    ),
    "damaged data": (lambda: replaced(b"data", b"dada"), "damaged"),
    "zip64 end": (zip64_directory, "zip64"),
    "overlapping entries": (overlapping, "contradict"),
    "directory with another name": (lambda: replaced(b"app.bin", b"axp.bin", last=True), "contradict"),
    "directory with another method": (lambda: directory_says(10, 8), "contradict"),
    "directory with another size": (lambda: directory_says(24, 9), "contradict"),
    "directory needs a newer zip": (lambda: directory_says(6, 99), "broken"),
}


def directory_says(at: int, value: int) -> bytes:
    data = bytearray(with_manifest(good(), app=b"data"))
    struct.pack_into("<H", data, data.rindex(b"PK\x01\x02") + at, value)
    return bytes(data)


class TestBadZips:
    @pytest.mark.parametrize("case", BAD_ZIPS)
    def test_a_bad_zip_is_refused_with_a_reason(self, case: str) -> None:
        """Whatever a device, or an archive tool, would stumble over."""
        make, words = BAD_ZIPS[case]
        with pytest.raises(InvalidFirmware, match=words):
            read(make())

    @pytest.mark.filterwarnings("ignore:Duplicate name")  # the library warns the test, which wants one
    def test_duplicate_names_are_refused(self) -> None:
        """Which of the two is meant depends on the reader."""
        assert "same name" in refused(zipped(("manifest.json", b"{}"), ("a.bin", b"1"), ("a.bin", b"2")))

    def test_two_sizes_of_a_stored_file_are_refused(self) -> None:
        """What is not packed is as long as its packed form."""
        data = bytearray(with_manifest(good(), app=b"data"))
        data[18] -= 1
        assert "two different sizes" in refused(bytes(data))

    def test_a_directory_that_counts_wrongly_is_refused(self) -> None:
        """Its last record says how many files there are."""
        data = bytearray(with_manifest(good(), app=b"data"))
        data[-12] = data[-14] = 3
        assert "lists 3 files, the zip has 2" in refused(bytes(data))

    def test_a_file_that_shrinks_while_it_is_read_is_refused(self) -> None:
        """Another program writes to it."""

        class Shrinking(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                self.truncate(10)
                return super().read(size)

        with pytest.raises(InvalidFirmware, match="shorter"):
            read_image(Shrinking(image_bytes()), name="x")

    def test_a_zip64_size_is_refused(self) -> None:
        """A device reads sizes of 32 bits."""
        data = bytearray(with_manifest(good(), app=b"data"))
        data[18:26] = b"\xff" * 8
        assert "feature" in refused(bytes(data))

    def test_a_size_past_the_end_is_refused_before_it_is_believed(self) -> None:
        """A small file that claims 4 GB costs nothing."""
        data = bytearray(with_manifest(good(), app=b"data"))
        data[18:26] = struct.pack("<II", 0xFFFF_FFFE, 0xFFFF_FFFE)
        assert "cut off" in refused(bytes(data))

    def test_limits_hold(self) -> None:
        """Bytes, files and the manifest's size have bounds."""
        data = image_bytes()
        assert "are allowed" in refused(data, limits=FirmwareLimits(size=len(data) - 1))
        assert "more than 2 files" in refused(data, limits=FirmwareLimits(entries=2))
        assert "manifest.json has" in refused(data, limits=FirmwareLimits(manifest=20))
        assert read(data, limits=FirmwareLimits(size=len(data), entries=3)).size == len(data)

    def test_a_huge_directory_is_refused(self) -> None:
        """A directory is read as a whole, so it has to be small."""
        data = with_manifest(good(), app=b"data")
        start = data.index(b"PK\x01\x02")
        assert "too large" in refused(data[:start] + data[start : start + 46] * 4000 + data[start:])

    def test_an_empty_file_is_refused(self) -> None:
        """Nothing is no image."""
        assert refused(b"") == "the image is empty"


MISSING = [{k: v for k, v in good().items() if k != key} for key in ("platform", "version", "build_id", "parts")]
BAD_MANIFESTS: list[tuple[object, str]] = [
    *((manifest, "required field") for manifest in MISSING),
    (b"{", "not valid JSON"),
    (b"\xff", "not valid JSON"),
    (b"[" * 100 + b"]" * 100, "deeper"),
    ([], "not an object"),
    (good() | {"platform": ""}, "required field 'platform'"),
    (good() | {"version": 1}, "version is not a string"),
    (good() | {"name": 1}, "name is not a string"),
    (good() | {"parts": {}}, "'parts'"),
    (good() | {"parts": []}, "'parts'"),
    (good() | {"parts": {"app": 1}}, "not an object"),
    (good(src=None), "no src"),
    (good(src=""), "no src"),
    (good(src=7), "src is not a string"),
    (good(src="other.bin"), "no file 'other.bin'"),
    (good(src="../app.bin"), "no file"),
    (good(size=5), "should have 5 bytes, app.bin has 4"),
    (good(size=-4), "should have -4 bytes"),
    (good(size=True), "size is not a whole number"),
    (good(size=4.0), "size is not a whole number"),
    (good(cs_sha1="0" * 40), "cs_sha1 should be"),
    (good(cs_sha256="zz"), "cs_sha256 should be zz"),
    (good(cs_sha1=1), "cs_sha1 is not a string"),
]


class TestManifests:
    @pytest.mark.parametrize(("manifest", "words"), BAD_MANIFESTS)
    def test_a_manifest_that_does_not_hold_is_refused(self, manifest: object, words: str) -> None:
        """Required fields, files, sizes and digests are checked before a byte goes out."""
        assert words in refused(with_manifest(manifest, app=b"data"))

    def test_digests_are_compared_without_case(self) -> None:
        """Hexadecimal has two spellings."""
        digest = hashlib.sha1(b"data", usedforsecurity=False).hexdigest()
        assert read(with_manifest(good(cs_sha1=digest.upper()), app=b"data")).version == "1.0"

    def test_a_part_in_a_top_folder_is_found_by_its_bare_name(self) -> None:
        """Devices drop the folder, and compare the rest with `src`."""
        manifest = json.dumps(good()).encode()
        assert read(zipped(("fw/manifest.json", manifest), ("fw/app.bin", b"data"))).version == "1.0"

    def test_writing_an_incomplete_manifest_is_refused(self) -> None:
        """The helper cannot make what `read_image` would not take."""
        with pytest.raises(InvalidFirmware, match="build_id"):
            image_bytes({"platform": "esp32", "version": "1"})
        with pytest.raises(InvalidFirmware, match="not allowed"):
            image_bytes(FIELDS | {"parts": {"app": {"src": "../app.bin"}}})


class TestAnyBytes:
    @staticmethod
    def check(data: bytes) -> None:
        try:
            image = read(data)
        except InvalidFirmware:
            return
        assert image.size == len(data)

    @given(st.binary(max_size=300))
    def test_any_bytes_give_an_image_or_a_refusal(self, data: bytes) -> None:
        """Nothing else comes out, whatever goes in."""
        self.check(data)
        self.check(b"PK\x03\x04" + data)

    @given(
        st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
        st.sampled_from([image_bytes(parts={"a": b"x" * 30}), zip64_directory(), streamed()]),
    )
    def test_a_mutated_zip_gives_an_image_or_a_refusal(self, changes: list[tuple[int, int]], data: bytes) -> None:
        """Single bytes changed anywhere: lengths, offsets, flags, names, JSON."""
        raw = bytearray(data)
        for at, value in changes:
            raw[at % len(raw)] = value
        self.check(bytes(raw))

    @given(st.data())
    def test_a_zip_with_extreme_header_fields_gives_an_image_or_a_refusal(self, data: st.DataObject) -> None:
        """Every field of every record, set to the values where readers break."""
        raw = bytearray(image_bytes(parts={"a": b"x" * 30}))
        records = [i for i in range(len(raw)) if raw[i : i + 2] == b"PK"]
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.sampled_from(records)) + data.draw(st.integers(4, 44))
            value = data.draw(st.sampled_from([0, 1, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
            width = data.draw(st.sampled_from([2, 4]))
            raw[at : at + width] = (value & (256**width - 1)).to_bytes(width, "little")
        self.check(bytes(raw))

    @given(st.data())
    def test_a_zip_with_a_piece_moved_gives_an_image_or_a_refusal(self, data: st.DataObject) -> None:
        """Pieces cut out, doubled or swapped."""
        raw = image_bytes(parts={"a": b"x" * 30})
        a, b, c = sorted(data.draw(st.integers(0, len(raw))) for _ in range(3))
        order = data.draw(st.sampled_from(["acb", "ab", "abcc", "cab", "b"]))
        pieces = {"a": raw[:a], "b": raw[a:b] + raw[b:c], "c": raw[c:]}
        self.check(b"".join(pieces[key] for key in order))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["parts", "platform", "version", "build_id", "name", "src", "size", "a"]),
                    inner,
                    max_size=8,
                )
            ),
            max_leaves=20,
        )
    )
    def test_any_json_as_a_manifest_gives_an_image_or_a_refusal(self, manifest: object) -> None:
        """Wrong types anywhere are words, not crashes."""
        self.check(with_manifest(manifest, a=b"data"))
        if isinstance(manifest, dict):
            self.check(with_manifest(good() | manifest, app=b"data"))
