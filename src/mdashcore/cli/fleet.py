"""``mdash fleet``: the devices of a user as a whole."""

from __future__ import annotations

from typing import Any

import click

from mdashcore.cli.client import Remote
from mdashcore.cli.options import json_option, remote_options
from mdashcore.cli.text import examples, show_json, show_table

__all__ = ["fleet"]


@click.command(
    short_help="Show the figures of your devices.", epilog=examples("mdash fleet", "mdash fleet --json | jq .devices")
)
@json_option
@remote_options()
def fleet(remote: Remote, *, as_json: bool) -> None:
    """Show the figures of your devices: how many are online, their firmware, and what needs a look.

    The last column has the filter that lists the devices of a figure: mdash devices list --filter TERM.
    """
    found = remote.get("fleet")
    if as_json:
        show_json(found)
        return
    show_table(("figure", "devices", "filter"), [*_counts(found), *_builds(found), *_troubles(found)])


def _counts(found: dict[str, Any]) -> list[tuple[object, ...]]:
    filters = found["filters"]
    return [
        (name.replace("_", " "), number, " ".join(filters.get(name, ())))
        for name, number in found["devices"].items()
        if number or name in ("all", "online", "offline")
    ]


def _builds(found: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for build in found["builds"]:
        name = " ".join(each for each in (build["app"], build["fw_version"]) if each) or "no firmware reported"
        rows.append((f"firmware {name}", build["devices"], " ".join(build["filter"])))
    if found["other_builds"]:
        rows.append(("other firmware", found["other_builds"], ""))
    return rows


def _troubles(found: dict[str, Any]) -> list[tuple[object, ...]]:
    updates = found["updates"]
    under_way, failed = updates["under_way"].items(), updates["last_failed"]
    rows: list[tuple[object, ...]] = [(f"updates {state}", number, f"update={state}") for state, number in under_way]
    if updates["failed"]:
        rows.append(("updates that failed in a day", updates["failed"], " ".join(found["filters"]["failed"])))
    rows += [_of_device(each, f"update {each['state']}: {each['reason']}") for each in failed]
    rows += [(f"rollout {each['name']} {each['state']}", each["counts"]["total"], "") for each in found["rollouts"]]
    rows += [_of_device(each, f"comes and goes, {each['changes']} changes") for each in found["flapping"]]
    rows += [_of_device(each, f"silent since {each['last_seen']}") for each in found["silent"]]
    return rows


def _of_device(device: dict[str, Any], words: str) -> tuple[object, ...]:
    return words, device["id"], f"id={device['id']}"
