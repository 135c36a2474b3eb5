"""The two text formats of metrics: that of Prometheus, and OpenMetrics."""

from __future__ import annotations

from typing import Final

__all__ = ["CONTENT_TYPE", "OPEN_METRICS", "wants_open_metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of Prometheus' own format."""

OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"""The content type of OpenMetrics."""


def wants_open_metrics(accept: str) -> bool:
    """Return whether a client prefers OpenMetrics, by its ``Accept`` (RFC 9110, section 12.5.1).

    >>> wants_open_metrics("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    True
    >>> wants_open_metrics("text/plain, application/openmetrics-text;q=0.9")
    False
    """
    open_metrics, text = 0.0, 0.0
    for element in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in element.split(";"))
        if kind == "application/openmetrics-text":
            open_metrics = max(open_metrics, _quality(parameters))
        elif kind in ("text/plain", "text/*"):
            text = max(text, _quality(parameters))
    return open_metrics > 0 and open_metrics >= text


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
