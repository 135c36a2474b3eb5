"""``mdash series``: what a device has reported over time."""

from __future__ import annotations

from typing import Final

import click

from mdashcore import _json
from mdashcore.cli.client import Remote
from mdashcore.cli.options import DEVICE, json_option, remote_options
from mdashcore.cli.text import examples, show_json, show_table, time_text
from mdashcore.cli.times import MOMENT
from mdashcore.documents import MAX_SERIES
from mdashcore.series import MAX_POINTS

__all__ = ["series"]

LISTED_POINTS: Final = 20  # parts of the time without --points: a screen


@click.command(
    short_help="Show what a device has reported over time.",
    epilog=examples(
        "mdash series meter stats.ram_free --from 1h",
        "mdash series meter sensors.t sensors.h --points 2000 --csv > meter.csv",
    ),
)
@click.argument("device", type=DEVICE)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--from", "start", type=MOMENT, help="When it begins.  [default: all that is stored]")
@click.option("--to", "end", type=MOMENT, help="When it ends.  [default: now]")
@click.option(
    "--points",
    type=click.IntRange(1, MAX_POINTS),
    default=LISTED_POINTS,
    show_default=True,
    help="Into how many parts the time is divided.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV, as the server makes it.")
@json_option
@remote_options()
def series(
    remote: Remote,
    *,
    device: str,
    paths: tuple[str, ...],
    start: float | None,
    end: float | None,
    points: int,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show what a device has reported over time: the smallest, mean and largest number in each part of it.

    A PATH is a place of what it reports, such as sensors.t; true and false are 1 and 0. A TIME is written as an age
    (90s, 15m, 2h, 7d), in Unix seconds, or as 2026-12-31T23:59:59Z. Parts without a value are left out.
    """
    if as_csv and as_json:
        raise click.UsageError("Give --csv or --json.")
    if len(paths) > MAX_SERIES:
        raise click.UsageError(f"Give at most {MAX_SERIES} paths.")
    times = {name: repr(time) for name, time in (("from", start), ("to", end)) if time is not None}
    query = {"path": paths, "points": str(points), **times}
    if as_csv:
        table, is_complete = remote.table("devices", device, "series", query=query)
        click.echo(table, nl=False)
        if not is_complete:
            click.echo("The reading took too long: older values are missing", err=True)
        return
    found = remote.request("GET", ("devices", device, "series"), query=query)
    if as_json:
        show_json(found)
        return
    document = _json.decode(found)
    rows = [
        (
            each["path"],
            time_text(point["time"]),
            *(_figure(point[name]) for name in ("min", "avg", "max")),
            point["count"],
        )
        for each in document["series"]
        for point in each["points"]
    ]
    show_table(("path", "time", "min", "mean", "max", "values"), rows)
    for each in document["series"]:
        if not each["points"]:
            click.echo(f"{device} has reported no number at {each['path']} in this time", err=True)
    if not document["complete"]:
        click.echo(f"The reading took too long: values before {time_text(document['read_from'])} are missing", err=True)


def _figure(value: float) -> str:
    return f"{value:.6g}"
