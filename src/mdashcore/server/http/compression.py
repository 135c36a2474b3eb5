"""Compression of answers with gzip, where the client accepts it.

Only lists without shadows, notifications and the files of the dashboard are compressed. Shadows, alone or in a list,
and the answers of devices never are: an ETag names their bytes, and the length of a compressed text tells something of
a secret beside a guess.
"""

from __future__ import annotations

import gzip
import zlib
from typing import Final

__all__ = ["ENCODING_HEADERS", "MIN_COMPRESSED", "GzipStream", "accepts_gzip", "compressed", "compressed_for_good"]

MIN_COMPRESSED: Final = 1_024  # bytes: a shorter answer fits into one packet either way

STREAM_LEVEL: Final = 1  # of gzip: a list shrinks to an eighth; 64 KiB take 0.5 ms, at level 6 three times as long

FILE_LEVEL: Final = 9  # of gzip for what is compressed once

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS  # what makes zlib write the header of gzip

ENCODING_HEADERS: Final = {"Content-Encoding": "gzip"}


def accepts_gzip(accepted: str | None) -> bool:
    """Return whether gzip is acceptable, and no worse than no encoding, by a header `Accept-Encoding`.

    RFC 9110, section 12.5.3. A client without the header gets no encoding, because many such clients know none.

    >>> accepts_gzip("gzip, deflate"), accepts_gzip("*;q=0.5"), accepts_gzip("gzip;q=0"), accepts_gzip(None)
    (True, True, False, False)
    """
    weights: dict[str, float] = {}
    for part in (accepted or "").split(","):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        if name:
            weights[name] = _weight(parameters)
    gzip_weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip_weight > 0 and gzip_weight >= weights.get("identity", 0.0)


def _weight(parameters: list[str]) -> float:
    """Return the weight of a coding: 1 without one, 0 for one that is none."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0.0 <= weight <= 1.0 else 0.0
    return 1.0


def compressed(body: bytes) -> bytes:
    """Return a small body, compressed."""
    return gzip.compress(body, STREAM_LEVEL, mtime=0)


def compressed_for_good(body: bytes) -> bytes:
    """Return a body, compressed as well as possible, for an answer that is sent again and again."""
    return gzip.compress(body, FILE_LEVEL, mtime=0)


class GzipStream:
    """A body that is compressed piece by piece."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(STREAM_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)

    def add(self, piece: bytes) -> bytes:
        """Return the next compressed bytes, which may be none. The time that it takes grows with the piece."""
        return self._compressor.compress(piece)

    def end(self) -> bytes:
        """Return the last compressed bytes."""
        return self._compressor.flush()
