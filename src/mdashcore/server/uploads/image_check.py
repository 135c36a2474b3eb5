"""Detects files that are no firmware by their first bytes and their name, before anything of them is stored."""

from __future__ import annotations

import codecs
import re
from typing import Final
from unicodedata import category

from mdashcore._errors import InvalidFirmware, UnsupportedContent

__all__ = ["HEAD_SIZE", "check_head", "check_segment"]

HEAD_SIZE: Final = 512  # first bytes of an image that are checked: enough to recognise a page of an error, or of an
# interface

_ARCHIVES: Final = (
    *(".zip", ".jar", ".apk", ".7z", ".rar", ".cab", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".deb", ".rpm"),
    *(".gz", ".bz2", ".xz", ".lz", ".lz4", ".lzma", ".lzo", ".zst", ".br"),
)

_ZIP: Final = b"PK"

_TEXTS: Final = {"<": "HTML or XML", "{": "JSON", "[": "JSON"}
"""Beginnings of texts that people send by mistake: an error of a proxy, the answer of a download."""

_JSON_VALUE: Final = re.compile(r'null|true|false|-?[0-9.]+|"[^"]*"')

_HEX_IMAGE: Final = re.compile(r":[0-9A-Fa-f]{8}|S[0-9][0-9A-Fa-f]{6}")
"""The beginning of an image in Intel's or Motorola's hexadecimal form, which is text, and firmware."""

_MARKS: Final = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""Byte order marks, and the encodings that they announce."""


def check_segment(filename: str | None, headers: list[tuple[str, str]]) -> None:
    """Check the head of the form's field ``file``.

    Raises:
        InvalidFirmware: the field is no file. ``curl -F file=fw.zip``, without ``@``, sends the name in its place.
        UnsupportedContent: the file is encoded once more.
    """
    if not filename:
        raise InvalidFirmware("the field 'file' has no file name: it is a text, not a file (curl: -F file=@fw.zip)")
    for name, value in headers:
        coding = value.strip().lower()
        if name == "Content-Transfer-Encoding" and coding not in ("", "binary", "8bit", "7bit"):
            raise UnsupportedContent(f"the file is encoded as {coding[:64]}: send its bytes as they are")


def check_head(head: bytes, name: str) -> None:
    """Check the beginning of an image.

    Args:
        head: its first `HEAD_SIZE` bytes, or all of it.
        name: the name of the file.

    Raises:
        InvalidFirmware: the image is no firmware. The text names a way to send it all the same.
    """
    if head.startswith(_ZIP):
        return
    if name.strip(" .").lower().endswith(_ARCHIVES):
        raise InvalidFirmware(f"{name} is no zip file, whatever its name says; a bare image of that name needs bare=1")
    kind = _text_kind(head)
    if kind is not None:
        raise InvalidFirmware(f"the image is a text that looks like {kind}; an image that begins like one needs bare=1")


def _text_kind(head: bytes) -> str | None:
    """Return what kind of text the bytes look like, or `None` if they are no text."""
    for encoding in _encodings(head):
        text = _decode(head, encoding)
        if text is None:
            continue
        text = text.strip()
        if (kind := _TEXTS.get(text[:1])) is not None:
            return kind
        if encoding in _LOOSE:
            continue  # any bytes are text of that encoding
        if _JSON_VALUE.fullmatch(text):
            return "JSON"
        if len(text.split()) > 1 and not _HEX_IMAGE.match(text):
            return "a message"
    return None


_LOOSE: Final = ("utf-16-le", "utf-16-be", "cp1252")
"""Encodings in which nearly all bytes are characters. A text in one has to begin as HTML, XML or JSON."""


def _encodings(head: bytes) -> tuple[str, ...]:
    return tuple(name for mark, name in _MARKS.items() if head.startswith(mark)) or ("utf-8", *_LOOSE)


def _decode(head: bytes, encoding: str) -> str | None:
    """Return the bytes as text, if they are text, possibly cut in the middle of a character."""
    text = codecs.getincrementaldecoder(encoding)()
    try:
        found = text.decode(head).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    return None if any(category(each) == "Cc" and each not in "\t\r\n\f" for each in found) else found
