"""Counts by the minute: compared with a plain list of what was counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redkeep.monitoring.tally import KEPT_MINUTES, Tally

NOW = 1_700_000_000 // 60 * 60


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 5)), max_size=60), st.integers(0, 200))
def test_any_order_counts_the_same(events: list[tuple[int, int]], first: int) -> None:
    """Events may come late and in any order: sums since a minute, series and total are those of the list."""
    tally = Tally()
    for minute, count in events:
        tally.add(NOW + minute * 60 + 7, count)
    assert sum(count for _, count in events) == tally.total
    assert sum(count for minute, count in events if minute >= first) == tally.since(NOW + first * 60)
    series = tally.series(start=NOW, end=NOW + 200 * 60, step=5)
    assert (sum(count for _, count in events), 41) == (sum(count for _, count in series), len(series))
    rows = tally.rows(since=0)
    assert rows == sorted(rows)
    again = Tally()
    again.restore(tally.total, rows)
    assert (tally.total, tally.since(NOW + first * 60)) == (again.total, again.since(NOW + first * 60))


def test_a_week_is_kept() -> None:
    """Older minutes go, the total stays; what comes too late for the week is in the total alone."""
    tally = Tally()
    for minute in range(KEPT_MINUTES + 10):
        tally.add(NOW + minute * 60)
    tally.add(NOW)
    tally.add(NOW + 11 * 60)
    assert (KEPT_MINUTES + 12, KEPT_MINUTES + 1, KEPT_MINUTES) == (tally.total, tally.since(0), len(tally.rows(since=0)))


def test_a_late_minute_pushes_out_the_oldest() -> None:
    """A gap in a full week is filled, and the first minute goes."""
    tally = Tally()
    for minute in range(KEPT_MINUTES + 1):
        if minute != 5:
            tally.add(NOW + minute * 60)
    tally.add(NOW + 5 * 60, 7)
    assert [NOW // 60 + 1, 1] == tally.rows(since=0)[0]
    assert KEPT_MINUTES - 1 + 7 == tally.since(0)


def test_something_else_is_refused() -> None:
    """Rows that are no numbers."""
    with pytest.raises((TypeError, ValueError)):
        Tally().restore(1, [["x", 1]])
