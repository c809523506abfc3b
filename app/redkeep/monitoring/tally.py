"""Counts in minutes: how often something happened in the last hours, and the series for a plot."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

KEPT_MINUTES: Final = 7 * 24 * 60


class Tally:
    """Counts of one thing, a number a minute, for a week. Times are seconds since the epoch."""

    __slots__ = ("_minutes", "total")

    def __init__(self) -> None:
        self.total = 0
        """Since the beginning, whatever is forgotten."""
        self._minutes: deque[list[int]] = deque(maxlen=KEPT_MINUTES)

    def add(self, when: float, count: int = 1) -> None:
        """Count `count` at `when`, which may lie in the past."""
        self.total += count
        minute = int(when // 60)
        if self._minutes and self._minutes[-1][0] >= minute:
            for place in range(len(self._minutes) - 1, -1, -1):
                row = self._minutes[place]
                if row[0] == minute:
                    row[1] += count
                    return
                if row[0] < minute:
                    self._insert(place + 1, [minute, count])
                    return
            self._insert(0, [minute, count])
            return
        self._minutes.append([minute, count])

    def since(self, when: float) -> int:
        """How many since `when`, to the minute."""
        first, found = int(when // 60), 0
        for minute, count in reversed(self._minutes):
            if minute < first:
                break
            found += count
        return found

    def series(self, *, start: float, end: float, step: int) -> list[tuple[int, int]]:
        """Time and count of each step of `step` minutes from `start` to `end`, zeros too."""
        first = int(start // 60) // step
        counts = dict.fromkeys(range(first, int(end // 60) // step + 1), 0)
        for minute, count in self._minutes:
            if minute // step in counts:
                counts[minute // step] += count
        return [(place * step * 60, count) for place, count in counts.items()]

    def rows(self, *, since: float) -> list[list[int]]:
        """The minutes since `since` with their counts, as plain data."""
        first = int(since // 60)
        return [list(row) for row in self._minutes if row[0] >= first]

    def restore(self, total: int, rows: Iterable[Iterable[int]]) -> None:
        """Take back what `total` and `rows` were. Raises ValueError when they are something else."""
        found = [[int(minute), int(count)] for minute, count in rows]
        self.total = int(total)
        self._minutes = deque(sorted(found), maxlen=KEPT_MINUTES)

    def _insert(self, place: int, row: list[int]) -> None:
        if len(self._minutes) == KEPT_MINUTES:
            if place == 0:
                return
            self._minutes.popleft()
            place -= 1
        self._minutes.insert(place, row)
