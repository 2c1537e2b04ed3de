"""domus server statistics: how busy a server is, now and in the course of time."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from domus_core.model.quantities import format_size

from ..output import Output, key
from ..sparkline import sparkline
from .common import completes, connect, with_output

SERVERS = "/api/v1/servers"
Items = Sequence[Mapping[str, Any]]
Course = Sequence[float | None]
COLUMNS = [key("WHAT", "what"), key("NOW", "now"), key("HIGHEST", "highest"), key("COURSE", "course")]


@click.command("statistics")
@click.argument("server", shell_complete=completes(SERVERS))
@click.option("--hours", type=click.FloatRange(0.05, 1440), default=1.0, show_default=True, help="How far back.")
@with_output
def statistics_command(output: Output, server: str, hours: float) -> None:
    """Show how busy a server is, and was."""
    since = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=hours)
    found = connect().get(f"{SERVERS}/{server}/statistics", **{"from": since.isoformat(timespec="seconds").replace("+00:00", "Z")})
    if not output.for_people:
        output.data(found)
        return
    output.rows(lines(found["items"]), COLUMNS, empty=f"Nothing was measured of server {server} in that time.")


def lines(items: Items) -> list[dict[str, Any]]:
    """A line for each thing that was measured."""
    if not items:
        return []
    latest = items[-1]
    made = [
        _line("cpu", [one.get("cpu") for one in items], lambda share: f"{share:.0%}", 1.0),
        _line("load", [(one.get("load") or [None])[0] for one in items], "{:.2f}".format, latest.get("cpus")),
        _line("memory used", [_used(one, "memory", "memory_available") for one in items], _size, latest.get("memory")),
        _line("swap used", [_used(one, "swap", "swap_free") for one in items], _size, latest.get("swap")),
    ]
    for group, counters in (("net", ("received", "sent")), ("disks", ("read", "written"))):
        for name in latest.get(group) or {}:
            made += [_line(f"{name} {one}", [((item.get(group) or {}).get(name) or {}).get(one) for item in items], _speed) for one in counters]
    for name, room in (latest.get("file_systems") or {}).items():
        course = [_used((one.get("file_systems") or {}).get(name) or {}, "size", "free") for one in items]
        made.append(_line(f"repository {name} used", course, _size, room.get("size")))
    return [line for line in made if line["now"] or line["highest"]]


def _line(what: str, course: Course, show: Callable[[float], str], highest: float | None = None) -> dict[str, Any]:
    known = [value for value in course if value is not None]
    now = course[-1]
    return {
        "what": what,
        "now": "" if now is None else show(now),
        "highest": show(max(known)) if known else "",
        "course": sparkline(course, highest).rstrip(),
    }


def _used(item: Mapping[str, Any], whole: str, free: str) -> float | None:
    return None if item.get(whole) is None or item.get(free) is None else item[whole] - item[free]


def _size(number: float) -> str:
    """Rounded to three digits, as nobody reads more."""
    unit = 1
    while number / unit >= 1000:
        unit *= 1024
    names = {1: "B", 1 << 10: "KiB", 1 << 20: "MiB", 1 << 30: "GiB", 1 << 40: "TiB"}
    return f"{number / unit:.3g}{names[unit]}" if unit in names else format_size(int(number))


def _speed(number: float) -> str:
    return f"{_size(number)}/s"
