"""A course of numbers as one line of text."""

from __future__ import annotations

from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60


def sparkline(values: Sequence[float | None], highest: float | None = None, width: int = WIDTH) -> str:
    """The course, the latest at the right; `highest` is a full bar (unless given, the highest value), a gap where nothing is known."""
    known = [value for value in thinned(values, width) if value is not None]
    top = highest or max(known, default=0.0)
    return "".join(" " if value is None else BARS[_height(value, top)] for value in thinned(values, width))


def thinned(values: Sequence[float | None], width: int) -> list[float | None]:
    """At most `width` values: of each stretch the highest, so that no peak is lost."""
    if len(values) <= width:
        return list(values)
    stretches = [values[len(values) * number // width : len(values) * (number + 1) // width] for number in range(width)]
    return [max((value for value in stretch if value is not None), default=None) for stretch in stretches]


def _height(value: float, top: float) -> int:
    return 0 if top <= 0 else min(len(BARS) - 1, max(0, round(value / top * (len(BARS) - 1))))
