"""The posture as a table for a terminal: by group, in colour, folded to its width."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redkeep.cli.status import MARKS
from redkeep.monitoring.posture import Posture

_STYLES: Final = {"ok": "green", "weak": "bold red", "unknown": "yellow", "not applicable": "dim"}


def show(posture: Posture, console: Console | None = None) -> None:
    """Print it; without a `console`, to standard output. NO_COLOR and TERM=dumb are heeded."""
    console = console or Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for column in ("group", "state", "control"):
        table.add_column(column, no_wrap=True)
    table.add_column("evidence", overflow="fold")
    groups = list(dict.fromkeys(control.group for control in posture.controls))
    for group in groups:
        for place, control in enumerate(control for control in posture.controls if control.group == group):
            style = _STYLES[control.state]
            evidence = Text(control.evidence, style="dim" if control.state == "not applicable" else "")
            if control.remedy:
                evidence.append(f"\n-> {control.remedy}", style="bold")
            head = Text("" if place else group, style="cyan")
            table.add_row(head, Text(MARKS[control.state], style=style), Text(control.name), evidence)
    console.print(table)
    console.print(Text(posture.summary, style=f"bold {_STYLES[posture.state]}"))
