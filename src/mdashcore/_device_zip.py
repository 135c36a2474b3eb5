"""A zip read as a Mongoose OS device reads it.

A device reads the zip as a stream, without seeing its end first: one local header after the other, from the first byte,
each with its size in front of its data; nothing is compressed. The device ignores the central directory at the end,
which other zip readers use. So `read_entries` walks the file as the device does, and then demands that the central
directory says the same: an archive tool shows exactly the files that the device gets.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from stat import S_IFMT, S_IFREG
from typing import BinaryIO

import attrs

from mdashcore._errors import InvalidFirmware

__all__ = ["ZipEntry", "read_blocks", "read_digests", "read_entries"]

MAX_ZIP_NAME = 49  # bytes of a file's name without its folder: a device keeps the name in 50, with the final zero
_BLOCK = 65_536  # bytes read at a time: the memory that a check needs, whatever the size of the image


@attrs.frozen
class ZipEntry:
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


def read_entries(file: BinaryIO, size: int, *, first: str, limit: int) -> list[ZipEntry]:
    """Return the files of a zip, in order, without reading their data.

    Args:
        size: bytes of the zip.
        first: the name of the file with which it has to begin.
        limit: the maximum number of files.

    Raises:
        InvalidFirmware: a device cannot read the zip, or other readers would see other files than a device.
    """
    entries: list[ZipEntry] = []
    position = 0
    while (entry := _entry_at(file, position, size)) is not None:
        entries.append(entry)
        if len(entries) > limit:
            raise InvalidFirmware(f"the zip has more than {limit} files")
        position = entry.data + entry.size
    if not entries or entries[0].name != first:
        raise InvalidFirmware(f"{first} is not the first file in the zip")
    if len({entry.folder for entry in entries}) > 1:
        raise InvalidFirmware("the files of the zip are not all in one folder")
    if len({entry.name for entry in entries}) < len(entries):
        raise InvalidFirmware("two files of the zip have the same name")
    _check_directory(file, position, size, entries)
    return entries


def _entry_at(file: BinaryIO, position: int, end: int) -> ZipEntry | None:
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
    return ZipEntry(path, position, data, size, crc, flags)


def _path(raw: bytes, *, utf8: bool) -> str:
    """Return the name of an entry. It has at most one folder, and no way out of it."""
    try:
        path = raw.decode("utf-8" if utf8 else "cp437")
    except UnicodeDecodeError:
        raise InvalidFirmware(f"a file name in the zip is not UTF-8: {raw[:64]!r}") from None
    *folders, name = path.split("/")
    if "\\" in path or not path.isprintable() or len(folders) > 1 or {"", ".", ".."} & {*folders, name}:
        raise InvalidFirmware(f"a file name in the zip is not allowed: {path[:64]!r}")
    if len(raw.rpartition(b"/")[2]) > MAX_ZIP_NAME:
        raise InvalidFirmware(f"a file name in the zip has more than {MAX_ZIP_NAME} bytes: {path[:64]!r}")
    return path


def _check_directory(file: BinaryIO, position: int, size: int, entries: list[ZipEntry]) -> None:
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


def read_digests(file: BinaryIO, entry: ZipEntry) -> dict[str, str]:
    """Return the digests of an entry, by their keys in the manifest."""
    crc, sha1, sha256 = 0, hashlib.sha1(usedforsecurity=False), hashlib.sha256()
    for block in read_blocks(file, entry.data, entry.size):
        crc = zlib.crc32(block, crc)
        sha1.update(block)
        sha256.update(block)
    if crc != entry.crc:
        raise InvalidFirmware(
            f"{entry.path} is damaged: its CRC is {crc:08x}, the zip says {entry.crc:08x}", device_words="Invalid CRC"
        )
    return {"cs_sha1": sha1.hexdigest(), "cs_sha256": sha256.hexdigest()}


def read_blocks(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    """Yield a section of a file in blocks. Raises `InvalidFirmware` if the file ends before."""
    file.seek(start)
    while size > 0:
        block = file.read(min(size, _BLOCK))
        if not block:
            raise InvalidFirmware("the image became shorter while it was read")
        size -= len(block)
        yield block
