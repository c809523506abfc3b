"""The journal of a migration: who did what, when, and what proved it; and the lock that names its holder.

One JSON object a line. It is never changed, only added to, by writing a whole new file and renaming it: a reader sees the
lines before or after, nothing between. Where a migration stands is worked out from the lines alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from redkeep.errors import ConfigurationError
from redkeep.migration.stages import NAMES

Event = Literal["begun", "action", "validated", "refused", "rolling back", "rolled back"]
EVENTS: Final = get_args(Event)

STALE_SECONDS: Final = 60
"""A holder that has shown no sign of life for so long has lost the lock: its steps are seconds apart."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `time` is UTC in ISO 8601, `who` user@machine, `run` an identifier of one call, `evidence` what was seen."""

    stage: str
    event: Event
    what: str
    who: str
    run: str
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    evidence: Mapping[str, str | int] = field(default_factory=dict)

    def line(self) -> str:
        """The entry as one line of the journal, without its end."""
        return json.dumps(asdict(self), ensure_ascii=True)


def parse(text: str) -> tuple[Entry, ...]:
    """The entries of a journal. Raises ConfigurationError with the line's number when one is not an entry."""
    found = []
    known = {item.name for item in fields(Entry)}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            entry = Entry(**{name: value for name, value in values.items() if name in known})
        except (ValueError, TypeError, AttributeError):
            raise ConfigurationError(f"the migration's journal, line {number}: not an entry; restore it from a copy") from None
        if entry.event not in EVENTS or entry.stage not in NAMES:
            raise ConfigurationError(f"the migration's journal, line {number}: written by a later version; use that version")
        found.append(entry)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a migration stands: stages `done`, in order; a stage that was `begun` but neither validated nor undone; whether
    that one was being `undone` when the journal ends."""

    done: tuple[str, ...] = ()
    begun: str = ""
    undone: bool = False

    @property
    def started(self) -> bool:
        """Whether anything of a migration is in force."""
        return bool(self.done or self.begun)

    @property
    def complete(self) -> bool:
        """Whether the migration is over: every stage done and none under way."""
        return self.done == NAMES and not self.begun

    def __str__(self) -> str:
        if not self.started:
            return "not begun"
        if self.complete:
            return "complete"
        parts = [f"{len(self.done)} of {len(NAMES)} stages done" + (f", the last is {self.done[-1]}" if self.done else "")]
        if self.done and not self.begun:
            parts.append(f"next is {NAMES[len(self.done)]}")
        if self.begun:
            parts.append(f"{self.begun} is {'being undone' if self.undone else 'begun but not validated'}")
        return "; ".join(parts)


def position(entries: Iterable[Entry]) -> Position:
    """Where a migration stands after these entries."""
    done: list[str] = []
    begun, undone = "", False
    for entry in entries:
        if entry.event == "begun":
            # Done again: it stays done, there is nothing to go back from.
            begun, undone = ("", False) if entry.stage in done else (entry.stage, False)
        elif entry.event == "validated":
            done = [*(name for name in done if name != entry.stage), entry.stage]
            begun, undone = "", False
        elif entry.event == "rolling back":
            done = [name for name in done if name != entry.stage]
            begun, undone = entry.stage, True
        elif entry.event == "rolled back":
            begun, undone = "", False
    return Position(tuple(done), begun, undone)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock. `machine` tells one operator's machine from another, `process` is the process there."""

    who: str
    run: str
    machine: str
    process: int
    verb: str
    stage: str

    def line(self) -> str:
        """As the lock file has it."""
        return json.dumps(asdict(self), ensure_ascii=True)

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """The holder a lock file names; None for a file that names none."""
        try:
            values = json.loads(text)
            return cls(**values)
        except (ValueError, TypeError):
            return None

    def refusal(self, *, silent: float) -> str:
        """The sentence for whoever comes second; `silent` is the seconds since the holder's last sign of life."""
        return (
            f"{_printable(self.who)} is running this migration ({_printable(self.verb)} {_printable(self.stage)}, run "
            f"{_printable(self.run)}, last sign of life {silent:.0f} s ago): wait until it ends; the lock of a run that died is freed "
            f"after {STALE_SECONDS} s"
        )


def _printable(text: str) -> str:
    shown = str(text)[:80]
    return shown if shown.isprintable() else ascii(shown)
