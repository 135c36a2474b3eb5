"""Firmware images: a Mongoose OS firmware zip, read as a device reads it, or a bare image.

A device reads the zip as a stream, without seeing its end first: one local header after the other, from
the first byte, each with its size in front of its data; the manifest comes first, and nothing is compressed.
The device ignores the central directory at the end, which other zip readers use. So `read_image` walks the file
as the device does, and then demands that the central directory says the same: an archive tool shows
exactly the files that the device gets.

The manifest (`manifest.json`) names the parts; each part's `src` is the file that holds it::

    {"name": "app", "platform": "esp32", "version": "1.0", "build_id": "20180601-120000/g1234",
     "parts": {"app": {"type": "app", "src": "app.bin", "size": 131072, "cs_sha1": "…"}}}
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from stat import S_IFMT, S_IFREG
from typing import Any, BinaryIO

import attrs

from mdashcore._checked import checked
from mdashcore._errors import InvalidFirmware, InvalidInput
from mdashcore._json import decode, encode

__all__ = ["MANIFEST", "FirmwareLimits", "Image", "Manifest", "Part", "read_image", "write_image"]

MANIFEST = "manifest.json"
MAX_NAME = 49  # bytes of a file's name without its folder: a device keeps the name in 50, with the final zero
_BLOCK = 65_536  # bytes read at a time: the memory that a check needs, whatever the size of the image


@attrs.frozen(kw_only=True, field_transformer=checked)
class FirmwareLimits:
    """The bounds of an image that `read_image` accepts."""

    size: int = 64 * 2**20
    """Bytes of the whole file. The largest flash of a Mongoose OS device is 16 MB, and half of it is for an image."""
    entries: int = 64
    """Files in the zip. Real images have under 10."""
    manifest: int = 16_384
    """Bytes of the manifest. A device holds it in RAM as a whole; real ones have under 4 KB."""


@attrs.frozen
class Part:
    """One part of the firmware, as the manifest describes it."""

    name: str
    type: str | None = None
    src: str | None = None
    """The name of the file that holds the part; `None` for a part without a file (`fill`)."""
    size: int | None = None
    """Bytes, if the manifest says them."""
    cs_sha1: str | None = None
    cs_sha256: str | None = None
    other: Mapping[str, Any] = attrs.Factory(dict)
    """All other keys: `addr`, `ptn`, `fs_size`, …"""


@attrs.frozen
class Manifest:
    """The manifest of a firmware zip."""

    name: str
    platform: str
    version: str
    build_id: str
    build_timestamp: str | None
    parts: tuple[Part, ...]


@attrs.frozen
class Image:
    """A checked image."""

    name: str
    size: int
    """Bytes."""
    sha256: str
    """Digest of the whole file, in hexadecimal."""
    manifest: Manifest | None = None
    """`None` for a bare image, of which nothing more is known."""

    @property
    def bare(self) -> bool:
        """Whether it is a bare image, without a manifest."""
        return self.manifest is None

    @property
    def build_id(self) -> str | None:
        """The build that the manifest names."""
        return self.manifest.build_id if self.manifest else None

    @property
    def version(self) -> str | None:
        """The version that the manifest names."""
        return self.manifest.version if self.manifest else None

    @property
    def platform(self) -> str | None:
        """The platform that the manifest names."""
        return self.manifest.platform if self.manifest else None

    @property
    def app(self) -> str | None:
        """The application that the manifest names."""
        return (self.manifest.name or None) if self.manifest else None


def read_image(file: BinaryIO, *, name: str, limits: FirmwareLimits = FirmwareLimits(), bare: bool = False) -> Image:
    """Check an image, and return its description.

    A file that begins as a zip must be a good firmware zip. Any other file is a bare image. The file is read twice, in
    small blocks, and left at its start.

    Args:
        file: a seekable file, open for reading bytes.
        name: the `name` of the returned image.
        limits: the bounds of the file.
        bare: accept any bytes as a bare image, even if they begin as a zip.

    Raises:
        InvalidFirmware: no device should be given this file, or it exceeds a limit. The text says why.
    """
    size = file.seek(0, 2)
    if size == 0:
        raise InvalidFirmware("the image is empty")
    if size > limits.size:
        raise InvalidFirmware(f"the image has {size} bytes; {limits.size} are allowed")
    digest = hashlib.sha256()
    for block in _blocks(file, 0, size):
        digest.update(block)
    file.seek(0)
    is_zip = not bare and file.read(2) == b"PK"  # any zip record counts: an empty zip has no entry to begin with
    manifest = _read_zip(file, size, limits) if is_zip else None
    file.seek(0)
    return Image(name=name, size=size, sha256=digest.hexdigest(), manifest=manifest)


# ------------------------------------------------------------------------------------------ the archive


@attrs.frozen
class _Entry:
    """A file in the zip, as its local header describes it."""

    path: str
    start: int
    """Offset of its local header in the zip."""
    data: int
    """Offset of its first byte in the zip."""
    size: int
    crc: int
    flags: int

    @property
    def name(self) -> str:
        """The name that the device knows: without the top folder."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


# .ZIP File Format Specification 6.3.9, sections 4.3.7 and 4.3.16
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_END = struct.Struct("<4sHHHHIIH")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_LOCATOR_64_MAGIC = b"PK\x06\x07"
_ENCRYPTED, _SIZES_BEHIND, _UTF8, _DEFLATE_HINTS = 0x1, 0x8, 0x800, 0x6
_MAX_TAIL = 2**17  # bytes of central directory and comment: 64 entries of 50-byte names need 10 KB


def _read_zip(file: BinaryIO, size: int, limits: FirmwareLimits) -> Manifest:
    entries: list[_Entry] = []
    position = 0
    while (entry := _entry_at(file, position, size)) is not None:
        entries.append(entry)
        if len(entries) > limits.entries:
            raise InvalidFirmware(f"the zip has more than {limits.entries} files")
        position = entry.data + entry.size
    if not entries or entries[0].name != MANIFEST:
        raise InvalidFirmware(f"{MANIFEST} is not the first file in the zip")
    if len({entry.folder for entry in entries}) > 1:
        raise InvalidFirmware("the files of the zip are not all in one folder")
    files = {entry.name: entry for entry in entries}
    if len(files) < len(entries):
        raise InvalidFirmware("two files of the zip have the same name")
    _check_directory(file, position, size, entries)
    if entries[0].size > limits.manifest:
        raise InvalidFirmware(f"{MANIFEST} has {entries[0].size} bytes; {limits.manifest} are allowed")
    digests = {entry.name: _digests(file, entry) for entry in entries}
    manifest = _manifest(b"".join(_blocks(file, entries[0].data, entries[0].size)))
    for part in manifest.parts:
        if part.src is not None:
            _check_part(part, files.get(part.src), digests.get(part.src, {}))
    return manifest


def _entry_at(file: BinaryIO, position: int, end: int) -> _Entry | None:
    """Return the entry whose local header is at `position`; `None` if the central directory begins there."""
    file.seek(position)
    header = file.read(_LOCAL.size)
    if header[:4] == _CENTRAL_MAGIC:
        return None
    if len(header) < _LOCAL.size or header[:4] != _LOCAL_MAGIC:
        raise InvalidFirmware(f"the zip is broken at byte {position}: a file or the directory should begin there")
    _, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack(header)
    path = _path(file.read(name_size), utf8=bool(flags & _UTF8))
    if flags & _ENCRYPTED:
        raise InvalidFirmware(f"{path} is encrypted")
    if method != 0:
        raise InvalidFirmware(
            f"{path} is compressed: devices cannot unpack compressed zips; store the files (zip -0)",
            device_words="Cannot handle compressed .zip",
        )
    if flags & _SIZES_BEHIND:
        raise InvalidFirmware(f"{path} has its size behind its data: devices need it in front")
    if flags & ~(_UTF8 | _DEFLATE_HINTS) or packed == 0xFFFFFFFF:
        raise InvalidFirmware(f"{path} uses a zip feature that devices do not have")
    if packed != size:
        raise InvalidFirmware(f"{path} is stored, but has two different sizes")
    data = position + _LOCAL.size + name_size + extra_size
    if data + size > end:
        raise InvalidFirmware(f"{path} is cut off")
    return _Entry(path, position, data, size, crc, flags)


def _path(raw: bytes, *, utf8: bool) -> str:
    """Return the name of an entry. It has at most one folder, and no way out of it."""
    try:
        path = raw.decode("utf-8" if utf8 else "cp437")
    except UnicodeDecodeError:
        raise InvalidFirmware(f"a file name in the zip is not UTF-8: {raw[:64]!r}") from None
    *folders, name = path.split("/")
    if "\\" in path or not path.isprintable() or len(folders) > 1 or {"", ".", ".."} & {*folders, name}:
        raise InvalidFirmware(f"a file name in the zip is not allowed: {path[:64]!r}")
    if len(raw.rpartition(b"/")[2]) > MAX_NAME:
        raise InvalidFirmware(f"a file name in the zip has more than {MAX_NAME} bytes: {path[:64]!r}")
    return path


def _check_directory(file: BinaryIO, position: int, size: int, entries: list[_Entry]) -> None:
    """Raise unless the central directory, from `position` to the end, lists exactly the entries, all plain files."""
    if size - position > _MAX_TAIL:
        raise InvalidFirmware("the zip's directory is too large")
    file.seek(position)
    tail = file.read(size - position)
    end = tail.rfind(_END_MAGIC)
    if end < 0 or end + _END.size > len(tail):
        raise InvalidFirmware("the zip has no end: it is cut off")
    _, disk, first_disk, here, total, length, start, comment = _END.unpack_from(tail, end)
    if (disk, first_disk, here, total) != (0, 0, len(entries), len(entries)):
        raise InvalidFirmware(f"the zip's directory lists {total} files, the zip has {len(entries)}")
    if tail[max(0, end - 20) : end].startswith(_LOCATOR_64_MAGIC):  # zipfile would follow it
        raise InvalidFirmware("the zip is a zip64: devices cannot read it")
    if (start, length) != (position, end) or end + _END.size + comment != len(tail):
        raise InvalidFirmware("the zip's directory is not where the zip says")
    try:
        with zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as exc:
        raise InvalidFirmware(f"the zip's directory is broken: {exc}") from None
    facts = [
        (i.filename, i.header_offset, i.file_size, i.compress_size, i.CRC, i.flag_bits, i.compress_type) for i in listed
    ]
    if sorted(facts) != sorted((e.path, e.start, e.size, e.size, e.crc, e.flags, 0) for e in entries):
        raise InvalidFirmware("the zip's directory and its files contradict each other")
    for info in listed:
        if S_IFMT(info.external_attr >> 16) not in (0, S_IFREG):
            raise InvalidFirmware(f"{info.filename} is a link or a special file")


def _digests(file: BinaryIO, entry: _Entry) -> dict[str, str]:
    """Return the digests of an entry, by their keys in the manifest."""
    crc, sha1, sha256 = 0, hashlib.sha1(usedforsecurity=False), hashlib.sha256()
    for block in _blocks(file, entry.data, entry.size):
        crc = zlib.crc32(block, crc)
        sha1.update(block)
        sha256.update(block)
    if crc != entry.crc:
        raise InvalidFirmware(
            f"{entry.path} is damaged: its CRC is {crc:08x}, the zip says {entry.crc:08x}", device_words="Invalid CRC"
        )
    return {"cs_sha1": sha1.hexdigest(), "cs_sha256": sha256.hexdigest()}


def _blocks(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    while size > 0:
        block = file.read(min(size, _BLOCK))
        if not block:
            raise InvalidFirmware("the image became shorter while it was read")
        size -= len(block)
        yield block


# ----------------------------------------------------------------------------------------- the manifest


def _manifest(text: bytes) -> Manifest:
    try:
        fields = decode(text)
    except InvalidInput as exc:
        raise InvalidFirmware(f"{MANIFEST}: {exc}") from None
    return _parse(fields)


def _parse(fields: object) -> Manifest:
    if not isinstance(fields, dict):
        raise InvalidFirmware(f"{MANIFEST} is not an object")
    for key in ("platform", "version", "build_id"):
        if not fields.get(key):
            raise InvalidFirmware(f"{MANIFEST}: the required field {key!r} is missing", device_words=_FIELD_MISSING)
    parts = fields.get("parts")
    if not isinstance(parts, dict) or not parts:
        raise InvalidFirmware(
            f"{MANIFEST}: the required field 'parts' is missing, or not an object", device_words=_FIELD_MISSING
        )
    return Manifest(
        name=_field(MANIFEST, fields, "name", str) or "",
        platform=_field(MANIFEST, fields, "platform", str),
        version=_field(MANIFEST, fields, "version", str),
        build_id=_field(MANIFEST, fields, "build_id", str),
        build_timestamp=_field(MANIFEST, fields, "build_timestamp", str),
        parts=tuple(_part(name, value) for name, value in parts.items()),
    )


def _part(name: str, fields: object) -> Part:
    where = f"part {name!r}"
    if not isinstance(fields, dict):
        raise InvalidFirmware(f"{where} is not an object")
    known = {key: _field(where, fields, key, kind) for key, kind in _PART_KEYS.items()}
    known["src"] = known["src"] or None
    if known["src"] is None and "fill" not in fields:
        raise InvalidFirmware(f"{where} has no src")
    return Part(name=name, other={k: v for k, v in fields.items() if k not in _PART_KEYS}, **known)


_FIELD_MISSING = "Required manifest field missing"
_PART_KEYS = {"type": str, "src": str, "size": int, "cs_sha1": str, "cs_sha256": str}


def _field(where: str, fields: dict[str, Any], key: str, kind: type) -> Any:
    value = fields.get(key)
    if value is not None and type(value) is not kind:  # not isinstance: a bool is not a size
        raise InvalidFirmware(f"{where}: {key} is not a {'string' if kind is str else 'whole number'}")
    return value


def _check_part(part: Part, entry: _Entry | None, digests: Mapping[str, str]) -> None:
    if entry is None:
        raise InvalidFirmware(f"part {part.name!r}: the zip has no file {part.src!r}")
    if part.size is not None and part.size != entry.size:
        raise InvalidFirmware(f"part {part.name!r} should have {part.size} bytes, {part.src} has {entry.size}")
    for key, digest in digests.items():
        wanted = getattr(part, key)
        if wanted is not None and wanted.lower() != digest:
            raise InvalidFirmware(
                f"part {part.name!r}: {key} should be {wanted[:64]}, {part.src} has {digest}",
                device_words="Invalid CRC",
            )


# --------------------------------------------------------------------------------------------- writing


def write_image(file: BinaryIO, manifest: Mapping[str, Any], parts: Mapping[str, bytes], *, folder: str = "") -> None:
    """Write a firmware zip that `read_image` and devices accept, at the start of an empty, seekable file.

    The same arguments give the same bytes, because no clock is read. The file is left at its start.

    Args:
        file: open for reading and writing bytes.
        manifest: the manifest's fields: at least `platform`, `version` and `build_id`. Its `parts` may hold
            more keys for a part, also a `src` of its own.
        parts: the bytes of each part. By default a part's `type` is its name and its file is `NAME.bin`. Sizes and
            digests are filled in.
        folder: a top folder, which some build tools make.

    Raises:
        InvalidFirmware: a required field is missing, or `read_image` would not accept the zip.
    """
    described = {name: dict(keys) for name, keys in manifest.get("parts", {}).items()}
    files: dict[str, bytes] = {}
    for name, data in parts.items():
        part: dict[str, Any] = {"type": name, "src": f"{name}.bin"} | described.get(name, {})
        part |= {"size": len(data), "cs_sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest()}
        part |= {"cs_sha256": hashlib.sha256(data).hexdigest()}
        described[name] = part
        files[part["src"]] = data
    fields = {**manifest, "parts": described}
    _parse(fields)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path, data in {MANIFEST: encode(fields), **files}.items():
            archive.writestr(zipfile.ZipInfo(f"{folder}/{path}" if folder else path), data)
    read_image(file, name="")
