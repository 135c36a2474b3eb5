"""Firmware images: a Mongoose OS firmware zip, read as a device reads it, or a bare image.

The zip is read as a device reads it: see `mdashcore._device_zip`. The manifest comes first.

The manifest (`manifest.json`) names the parts; each part's `src` is the file that holds it::

    {"name": "app", "platform": "esp32", "version": "1.0", "build_id": "20180601-120000/g1234",
     "parts": {"app": {"type": "app", "src": "app.bin", "size": 131072, "cs_sha1": "…"}}}
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import attrs

from mdashcore._checked import checked
from mdashcore._device_zip import ZipEntry, read_blocks, read_digests, read_entries
from mdashcore._errors import InvalidFirmware, InvalidInput
from mdashcore._json import decode, encode

__all__ = ["MANIFEST", "FirmwareLimits", "Image", "Manifest", "Part", "read_image", "write_image"]

MANIFEST = "manifest.json"


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
    for block in read_blocks(file, 0, size):
        digest.update(block)
    file.seek(0)
    is_zip = not bare and file.read(2) == b"PK"  # any zip record counts: an empty zip has no entry to begin with
    manifest = _read_zip(file, size, limits) if is_zip else None
    file.seek(0)
    return Image(name=name, size=size, sha256=digest.hexdigest(), manifest=manifest)


def _read_zip(file: BinaryIO, size: int, limits: FirmwareLimits) -> Manifest:
    entries = read_entries(file, size, first=MANIFEST, limit=limits.entries)
    files = {entry.name: entry for entry in entries}
    if entries[0].size > limits.manifest:
        raise InvalidFirmware(f"{MANIFEST} has {entries[0].size} bytes; {limits.manifest} are allowed")
    digests = {entry.name: read_digests(file, entry) for entry in entries}
    manifest = _manifest(b"".join(read_blocks(file, entries[0].data, entries[0].size)))
    for part in manifest.parts:
        if part.src is not None:
            _check_part(part, files.get(part.src), digests.get(part.src, {}))
    return manifest


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


def _check_part(part: Part, entry: ZipEntry | None, digests: Mapping[str, str]) -> None:
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
