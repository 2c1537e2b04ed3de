"""A course of numbers as one line of text."""

from __future__ import annotations

from domus_cli.sparkline import sparkline, thinned
from hypothesis import given
from hypothesis import strategies as some

VALUES = some.lists(some.none() | some.floats(0, 1e15), max_size=300)


def test_a_course_is_drawn() -> None:
    assert sparkline([0, 0.5, 1, None, 1], 1.0) == "▁▅█ █"
    assert sparkline([0, 0]) == "▁▁" and sparkline([]) == ""


@given(VALUES, some.integers(1, 80))
def test_it_is_never_wider_and_keeps_the_peak(values: list[float | None], width: int) -> None:
    known = [value for value in values if value is not None]
    assert len(sparkline(values, width=width)) <= max(width, 0)
    assert max((value for value in thinned(values, width) if value is not None), default=None) == max(known, default=None)
