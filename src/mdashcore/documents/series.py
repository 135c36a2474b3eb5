"""What a device has reported over time, as documents."""

from __future__ import annotations

from typing import Annotated, Final, TypedDict

from mdashcore.documents._members import member
from mdashcore.series import MAX_POINTS

__all__ = ["MAX_SERIES", "GapDocument", "PointDocument", "SeriesDocument", "SeriesOfPlace", "SeriesQuery"]

MAX_SERIES: Final = 16  # places of a request: as many as the metrics have, and more plots than a screen

SeriesQuery = TypedDict(
    "SeriesQuery",
    {
        "path": Annotated[
            list[str],
            member(
                "a place of `reported`, such as `sensors.t`; `reported.` may stand before it. 1 to 16 of them. "
                "`\\.` is a dot that belongs to a key",
                min_length=1,
                max_length=MAX_SERIES,
            ),
        ],
        "from": Annotated[str, member("the begin, as Unix seconds or RFC 3339; without it all that is stored")],
        "to": Annotated[str, member("the end, written in the same way; without it now")],
        "points": Annotated[
            int, member("into how many parts of equal length the time is divided", 300, ge=1, le=MAX_POINTS)
        ],
        "format": Annotated[
            str, member("`csv` or `json`; without it as the header `Accept` prefers", pattern="^(csv|json)$")
        ],
    },
    total=False,
)
SeriesQuery.__doc__ = """The parameters of a series."""


class PointDocument(TypedDict):
    """The values in a part of the time."""

    time: Annotated[float, member("the begin of the part")]
    min: Annotated[float, member("the smallest value")]
    avg: Annotated[float, member("the mean of the values")]
    max: Annotated[float, member("the largest value")]
    count: Annotated[int, member("the number of values, at least 1")]


class SeriesOfPlace(TypedDict):
    """The values of one place."""

    path: Annotated[str, member("as it was asked for")]
    points: Annotated[list[PointDocument], member("the parts of the time that have values, the oldest first")]


GapDocument = TypedDict("GapDocument", {"from": float, "to": float})
GapDocument.__doc__ = """A time in which the device was offline."""

SeriesDocument = TypedDict(
    "SeriesDocument",
    {
        "from": Annotated[float, member("the begin of the time")],
        "to": Annotated[float, member("its end")],
        "step": Annotated[float, member("the length of a part, in seconds")],
        "series": Annotated[list[SeriesOfPlace], member("the values of each place, in the order of the request")],
        "gaps": Annotated[list[GapDocument], member("when the device was offline, the oldest first")],
        "read_from": Annotated[
            float | None,
            member("the time of the oldest notification that was read; of the time before nothing is known"),
        ],
        "complete": Annotated[
            bool, member("`false`: the reading took too long, and older values than those of `read_from` are missing")
        ],
    },
)
SeriesDocument.__doc__ = """What a device has reported over time. Times are Unix seconds."""
