"""Detects files that are no firmware by their first bytes and their name, before anything of them is stored."""

from __future__ import annotations

from typing import Final

from mdashcore._errors import InvalidFirmware, UnsupportedContent

__all__ = ["HEAD_SIZE", "check_head", "check_segment"]

HEAD_SIZE: Final = 512  # first bytes of an image that are checked: enough to recognise a page of an error, or of an
# interface

_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst")

_ZIP: Final = b"PK"

_TEXTS: Final = {b"<": "HTML or XML", b"{": "JSON", b"[": "JSON"}
"""Beginnings of texts that people send by mistake: an error of a proxy, the answer of a download."""


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
    if name.lower().endswith(_ARCHIVES):
        raise InvalidFirmware(f"{name} is no zip file, whatever its name says; a bare image of that name needs bare=1")
    kind = _TEXTS.get(head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1])
    if kind is not None and _is_text(head):
        raise InvalidFirmware(f"the image is a text that looks like {kind}; an image that begins like one needs bare=1")


def _is_text(head: bytes) -> bool:
    """Return whether the bytes are text, possibly cut in the middle of a character."""
    try:
        text = head.decode()
    except UnicodeDecodeError as exc:
        if exc.reason != "unexpected end of data":
            return False
        text = head[: exc.start].decode()
    return all(character.isprintable() or character in "\t\r\n\ufeff" for character in text)
