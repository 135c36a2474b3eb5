"""The request for a job: a JSON object, checked member by member."""

from __future__ import annotations

from typing import Final

import attrs

from mdashcore import identity, selection
from mdashcore._checked import check_members
from mdashcore._errors import InvalidInput
from mdashcore._trees import JsonObject
from mdashcore.job._patches import check_desired
from mdashcore.selection import Selection
from mdashcore.shadow import DEFAULT_LIMITS, ShadowLimits

_MEMBERS: Final = ("desired", "filter", "devices", "all", "name", "preview")


@attrs.frozen
class JobRequest:
    """A checked request for a job."""

    desired: JsonObject
    selection: Selection
    name: str = ""
    preview: bool = False
    """Whether nothing is to be changed, only shown."""


def parse_request(value: object, limits: ShadowLimits = DEFAULT_LIMITS) -> JobRequest:
    """Return the request that a JSON object describes.

    ::

        {"desired": {"interval": 30, "old": null}, "filter": ["tag=berlin"], "devices": null, "all": false,
         "name": "slower", "preview": false}

    Args:
        limits: those of every shadow.

    Raises:
        InvalidInput: a member is unknown, or has an invalid value. The text names it.
        TooLarge: the values alone are larger than a shadow may be.
    """
    if not isinstance(value, dict):
        raise InvalidInput("a job is a JSON object")
    check_members(value, _MEMBERS)
    chosen = selection.parse_members(value, "a job")
    preview = value.get("preview", False)
    if not isinstance(preview, bool):
        raise InvalidInput("preview is true or false")
    desired = check_desired(value.get("desired"), limits)
    return JobRequest(desired, chosen, identity.check_label(value.get("name", "")), preview)
