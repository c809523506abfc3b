"""Tables of plain text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime


def printable(text: str) -> str:
    """Return `text` with non-printable characters escaped: certificates come from anywhere."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def render(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the rows under their head, columns padded to the widest cell."""
    cells = [tuple(head), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def days_since(moment: str, *, now: datetime | None = None) -> int:
    """Return the whole days from an ISO 8601 time to `now` (by default the clock); negative when to come."""
    return ((datetime.now(UTC) if now is None else now) - datetime.fromisoformat(moment)).days


def age(moment: str) -> str:
    """Return how long ago an ISO 8601 time was, in words."""
    days = days_since(moment)
    return "today" if days <= 0 else "1 day" if days == 1 else f"{days} days"


def remaining(moment: str) -> str:
    """Return what is left until an ISO 8601 time, in words; "" for an empty one."""
    if not moment:
        return ""
    days = -days_since(moment) - 1
    return "EXPIRED" if days < 0 else f"{days} days left"
