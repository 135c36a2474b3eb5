"""The lines of the log: one for each record, whatever is in it, as text and as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from mdashcore.cli.log_format import JsonFormatter, TextFormatter

MOMENT = 1_767_323_045.678

TEXT = st.text(st.characters(exclude_categories=()))  # with halves of surrogate pairs


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    """A warning at a fixed moment."""
    info = None
    if error is not None:
        try:
            raise error
        except Exception:
            info = sys.exc_info()
    made = logging.LogRecord("mdashcore.test", logging.WARNING, __file__, 1, "%s", (message,), info)
    made.created = MOMENT
    return made


def test_text():
    """Time, level, logger, the request if there is one, and the message."""
    assert TextFormatter(lambda: "").format(record("a\nb")) == (
        r"2026-01-02T03:04:05.678Z WARNING mdashcore.test: a\nb"
    )
    assert TextFormatter(lambda: "r1").format(record("x")) == "2026-01-02T03:04:05.678Z WARNING mdashcore.test [r1]: x"
    assert TextFormatter(lambda: "r1", 0).format(record("x")).endswith(" mdashcore.test [worker 0, r1]: x")
    assert TextFormatter(lambda: "", 1).format(record("x")).endswith(" mdashcore.test [worker 1]: x")


def test_json():
    """The same in an object; what there is not, is left out."""
    assert json.loads(JsonFormatter(lambda: "").format(record("a\nb"))) == {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "warning",
        "logger": "mdashcore.test",
        "message": "a\nb",
    }
    assert json.loads(JsonFormatter(lambda: "", 0).format(record("x")))["worker"] == "0"
    found = json.loads(JsonFormatter(lambda: "r1").format(record("x", ValueError("a\nb"))))
    assert found["request_id"] == "r1"
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("ValueError: a\nb")


@given(TEXT, TEXT)
def test_whatever_is_logged_is_one_line(message: str, words: str) -> None:
    """Without control characters; the JSON holds the very message, but for halves of surrogate pairs."""
    made = record(message, ValueError(words))
    for formatter in (TextFormatter, JsonFormatter):
        line = formatter(lambda: "").format(made)
        assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in line)
        line.encode()
    found = json.loads(line)
    assert found["message"] == message.encode("utf-8", "backslashreplace").decode()
    assert datetime.fromisoformat(found["time"]).utcoffset().total_seconds() == 0
