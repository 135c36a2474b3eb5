"""The lines of the log, as text or as JSON: one line for each record, whatever text from outside is in it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from mdashcore.cli.text import json_line, printable, time_text

__all__ = ["JsonFormatter", "TextFormatter"]


class TextFormatter(logging.Formatter):
    """Writes ``TIME LEVEL LOGGER [worker N, REQUEST]: MESSAGE``; a traceback follows in the same line.

    Text from outside stands behind the first colon only, and cannot start a second line.

    Args:
        request_id: returns the id of the request for which a record is logged; empty if there is none.
        worker: the number of this process, if several serve the port.
    """

    def __init__(self, request_id: Callable[[], str], worker: int | None = None) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(origin)s: %(message)s")
        self._request_id = request_id
        self._worker = "" if worker is None else f"worker {worker}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return time_text(record.created)

    def format(self, record: logging.LogRecord) -> str:
        origin = ", ".join(filter(None, (self._worker, self._request_id())))
        record.origin = f" [{origin}]" if origin else ""
        return printable(super().format(record))


class JsonFormatter(logging.Formatter):
    """Writes an object of texts: ``time``, ``level``, ``logger``, ``message``; ``worker``, ``request_id`` and
    ``exception`` if any.

    Args:
        request_id, worker: as for `TextFormatter`.
    """

    def __init__(self, request_id: Callable[[], str], worker: int | None = None) -> None:
        super().__init__()
        self._request_id = request_id
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time_text(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            entry["worker"] = str(self._worker)
        if id := self._request_id():
            entry["request_id"] = id
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        # half of a surrogate pair cannot be written
        texts = {name: text.encode("utf-8", "backslashreplace").decode() for name, text in entry.items()}
        return json_line(msgspec.json.encode(texts).decode())
